"""CPC's own criterion: which latents compete, and the loss."""

from cpc.infonce.criterion import InfoNCE, infonce
from cpc.infonce.negatives import BoundKind, Negatives, NegativesError, Scheme, bound_kind, draw

__all__ = ["BoundKind", "InfoNCE", "Negatives", "NegativesError", "Scheme", "bound_kind", "draw", "infonce"]
