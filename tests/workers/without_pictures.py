"""Runs a script, or the command line with its arguments, as a user would, but draws nothing of the pictures."""

import runpy
import sys


def draw_nothing(patch=setattr):
    """Save pictures without what is on them, which takes longer than all else in a short run."""
    from matplotlib.figure import Figure

    save = Figure.savefig

    def save_empty(figure, *arguments, **options):
        figure.set_layout_engine("none")
        for part in figure.get_children():
            part.set_visible(False)
        save(figure, *arguments, **options)

    patch(Figure, "savefig", save_empty)


if __name__ == "__main__":
    draw_nothing()
    sys.argv = sys.argv[1:]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        from lightning_uncertainty.__main__ import main

        sys.exit(main())
