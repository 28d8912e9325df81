"""Typed settings of the training stages; a run is a function in `recipes` that returns them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long one slice of a stage runs: whichever bound is reached first.

    Attributes:
        minutes: wall-clock minutes of this slice.
        max_steps: optimizer steps of this slice.
    """

    minutes: float
    max_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule of one stage.

    Attributes:
        learning_rate: peak learning rate (update RMS 0.2 * learning_rate for Muon parameters too).
        weight_decay: decoupled decay of matrices; vectors are never decayed.
        betas: Adam moments.
        use_muon: orthogonalised momentum for the matrices and kernels inside blocks, AdamW for the rest.
        warmup_steps: linear warm-up at the start of every slice (moments are fresh on a new machine).
        decay_from: fraction of the slice after which the rate falls linearly to `final_factor`.
        final_factor: last learning rate over the peak.
        clip_norm: gradient norm bound.
        ema_decay: decay of the averaged weights that are exported.
    """

    learning_rate: float
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    use_muon: bool = False
    warmup_steps: int = 100
    decay_from: float = 0.6
    final_factor: float = 0.02
    clip_norm: float = 1.0
    ema_decay: float = 0.998


@dataclass(frozen=True, slots=True, kw_only=True)
class VAETrainConfig:
    """Stage 0: the video VAE.

    Attributes:
        optimizer: see `OptimizerConfig`.
        batch_size: windows per step.
        num_frames: frames per window, 1 + 4k; fewer than a session's window leave later latents untrained.
        judged_frames: frames of a window that are decoded to pixels in a step. Neighbours look alike, and the
            finest decoder levels, which see one frame at a time, are most of the work.
        crop: side of the random square that a step sees, pixels.
        kl_weight: weight of the mean KL divergence per latent element (small: rate, not shape).
        gradient_weight: weight of the multi-scale image-gradient loss.
        color_weight: weight of the loss of cell-averaged colours.
        round_trip_weight: weight of the change that decoding and encoding the last frames makes to latents.
        motion_frames: frames that a stream encodes again.
        face_weight: extra pixel weight inside the face box.
        eye_weight: extra pixel weight in the eye band of the face box.
        mouth_weight: extra pixel weight inside the mouth box.
    """

    optimizer: OptimizerConfig
    batch_size: int
    num_frames: int = 33
    judged_frames: int = 13
    crop: int = 256
    kl_weight: float = 2e-5
    gradient_weight: float = 0.5
    color_weight: float = 1.0
    round_trip_weight: float = 0.05
    motion_frames: int = 5
    face_weight: float = 1.5
    eye_weight: float = 2.0
    mouth_weight: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceTrainConfig:
    """The decoder that warps a reference, on latents of a finished VAE.

    Attributes:
        optimizer: see `OptimizerConfig`.
        batch_size: windows per step.
        num_frames: frames per window, 1 + 4k.
        judged_frames: frames of a window that are decoded to pixels in a step.
        latent_noise: largest noise level put on the latents, which a transformer does not make exactly.
        gradient_weight: weight of the multi-scale image-gradient loss.
        painted_weight: weight of the painted picture's own loss. With a loss on the blend alone the mask soon
            is 1 everywhere, and the decoder never learns to paint.
        warped_weight: weight of the warped picture's own loss, which the flow learns from.
        late_warped_weight: the same from `late_from` on, when the flow is found and what cannot be warped
            should not bend it.
        late_from: share of the first slice after which `late_warped_weight` holds.
        warped_gradient_weight: weight of image gradients in the loss of the warped picture.
        flow_weight: weight of the flow's change between neighbouring cells.
        critic_from: share of the first slice after which a critic takes part; in later slices it does from
            the start.
        critic_ramp: share of the slice over which its weight rises to the full one.
        adversarial_weight: weight of what the critic says of the frames.
        feature_weight: weight of the distance of the critic's features from those of the real frames.
        critic_weight: weight of the critic's own loss. Its optimizer does not care for the scale, but the
            bound on the gradient norm is shared.
        face_weight: extra pixel weight inside the face box.
        eye_weight: extra pixel weight in the eye band of the face box.
        mouth_weight: extra pixel weight inside the mouth box.
    """

    optimizer: OptimizerConfig
    batch_size: int
    num_frames: int = 33
    judged_frames: int = 8
    latent_noise: float = 0.05
    gradient_weight: float = 0.5
    painted_weight: float = 0.5
    warped_weight: float = 0.5
    late_warped_weight: float = 0.2
    late_from: float = 0.6
    warped_gradient_weight: float = 0.2
    flow_weight: float = 0.02
    critic_from: float = 0.5
    critic_ramp: float = 0.1
    adversarial_weight: float = 0.05
    feature_weight: float = 1.0
    critic_weight: float = 0.05
    face_weight: float = 1.5
    eye_weight: float = 3.0
    mouth_weight: float = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTConfig:
    """Stage 1: flow matching of the DiT on 33-frame windows (paper section 2).

    Attributes:
        optimizer: see `OptimizerConfig`.
        batch_size: windows per step.
        shift: warp of the noise level towards noise, the sampler's.
        single_motion_probability: share of windows that start from one clean motion latent
            (a session's first chunk) instead of two.
        own_reference_probability: of those, the share whose reference is that very frame.
        motion_noise: largest noise level put on the clean motion latents, against drift.
        reencoded_probability: share of windows whose motion latents went through decode and encode,
            as they do when a session streams.
    """

    optimizer: OptimizerConfig
    batch_size: int
    shift: float = 3.0
    single_motion_probability: float = 0.2
    own_reference_probability: float = 0.6
    motion_noise: float = 0.2
    reencoded_probability: float = 0.5
