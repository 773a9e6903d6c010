"""Sliders for notebooks; each is one call in a cell of its own, and a still picture where nothing can move."""

from psn_tutorial.teaching.sliders.answers import sigma_slider
from psn_tutorial.teaching.sliders.laboratory import cap_slider, equal_kl_slider, gain_slider

__all__ = ["cap_slider", "equal_kl_slider", "gain_slider", "sigma_slider"]
