"""Curvature of a trained network by one pass over data: Kronecker factors of each layer, exact diagonals."""

from secateur.curvature.curvature_pass import CurvaturePass
from secateur.curvature.estimate import estimate
from secateur.curvature.evidence import evidence_priors
from secateur.curvature.running import RunningCurvature
from secateur.curvature.value import Curvature, LayerCurvature

__all__ = [
    "Curvature",
    "CurvaturePass",
    "LayerCurvature",
    "RunningCurvature",
    "estimate",
    "evidence_priors",
]
