"""Pictures of explanations, on matplotlib, which is imported when something is drawn.

Every function takes an :class:`fastxai.Explanation` or an array of attributions, and those that
draw features also explanations of :mod:`fastxai.shap` or of shap. It returns the axes that it drew
on, and leaves everything else as it was: without ``ax`` it makes a figure that pyplot does not
know, ``ax.figure.savefig("picture.png")``. Figures of yours with ``layout="constrained"``
make room for long names and for numbers beside the axes.

Orange raises the output and blue lowers it, in all of them; standard errors are drawn wherever
there are any, and what lies within two of them of zero is marked.
"""

from .bars import bar, waterfall
from .calls import convergence
from .grids import heatmap
from .images import image
from .points import beeswarm, scatter
from .words import text, text_html

__all__ = [
    "bar",
    "beeswarm",
    "convergence",
    "heatmap",
    "image",
    "scatter",
    "text",
    "text_html",
    "waterfall",
]
