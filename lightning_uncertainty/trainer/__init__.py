"""The Lightning side: the callback, the mixin, and everything that touches a Trainer."""
