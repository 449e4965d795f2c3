"""CPC's own criterion: which latents compete, and the loss."""

from cpc.config import Scheme
from cpc.infonce.criterion import InfoNCE, infonce
from cpc.infonce.negatives import BoundKind, Negatives, NegativesError, bound_kind

__all__ = ["BoundKind", "InfoNCE", "Negatives", "NegativesError", "Scheme", "bound_kind", "infonce"]
