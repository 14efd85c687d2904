"""Where everything is that a picture shows: the tensors that `BatchRenderer` fills and that what draws them reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import cameras


@dataclass
class Placement:
    """N worlds of S slots (`RenderModel`), C cameras each. Written in place: who draws keeps aliases of the memory."""

    mesh: Tensor  # (N, S) int32
    material: Tensor  # (N, S) int32
    position: Tensor  # (N, S, 3) of the middle of the mesh's box
    matrix: Tensor  # (N, S, 3, 3) rotation
    lower: Tensor  # (N, S, 3) of the box around it along the world's axes; filled for ray casters alone
    upper: Tensor  # (N, S, 3)
    camera_position: Tensor  # (N, C, 3)
    camera_matrix: Tensor  # (N, C, 3, 3) axes right, up, backward as columns

    @classmethod
    def empty(cls, num_worlds: int, num_slots: int, mesh: int, device: torch.device) -> Placement:
        """All slots hold `mesh`, unturned at the origin."""
        many, seen = (num_worlds, num_slots), (num_worlds, len(cameras.CAMERAS))

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            mesh=torch.full(many, mesh, dtype=torch.int32, device=device),
            material=zeros(*many, dtype=torch.int32),
            position=zeros(*many, 3),
            matrix=torch.eye(3, device=device).repeat(*many, 1, 1),
            lower=zeros(*many, 3),
            upper=zeros(*many, 3),
            camera_position=zeros(*seen, 3),
            camera_matrix=zeros(*seen, 3, 3),
        )
