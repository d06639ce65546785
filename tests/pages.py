"""What a page has to be: one whole file, which loads nothing."""

import html.parser
import re


class Page(html.parser.HTMLParser):
    """Whether every element that is opened is closed, what is loaded from elsewhere, and what can be read.

    Args:
        text: of the page.

    Attributes:
        words: what a reader sees, in order; ``text`` is all of it.
        tags: of all elements, in order.
        titles: of the sections.
    """

    VOID = {"meta", "br", "path", "use", "rect", "image", "circle", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.loaded, self.tags, self.words, self.titles = [], [], [], [], []
        self.feed(text)
        self.text = " ".join("".join(self.words).split())
        assert self.open == []
        assert self.loaded == []
        assert not re.search(r"url\((?!#)|@import|<script", text)

    def count(self, tag):
        return self.tags.count(tag)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            if key in ("src", "href", "xlink:href") and not (value or "").startswith(("#", "data:image/png;base64,")):
                self.loaded.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)
