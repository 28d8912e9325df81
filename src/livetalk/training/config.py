"""Settings of the training stages; `recipes` holds functions that return complete ones."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Wall-clock minutes and optimizer steps of one slice of a stage; the first limit reached ends it."""

    minutes: float
    max_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule of one stage.

    Attributes:
        decay_from: share of the slice after which the rate falls linearly to `final_factor` times the peak.
    """

    learning_rate: float  # peak; the update's RMS is 0.2 * learning_rate for Muon parameters too
    weight_decay: float = 0.01  # decoupled decay of matrices and kernels; vectors have none
    betas: tuple[float, float] = (0.9, 0.98)
    use_muon: bool = False  # Muon for the matrices and kernels inside blocks, AdamW for the rest
    warmup_steps: int = 100  # linear warm-up of every slice, whose moments may be fresh
    decay_from: float = 0.6
    final_factor: float = 0.02
    clip_norm: float = 1.0  # upper bound of the gradient norm
    ema_decay: float = 0.998  # decay of the averaged weights, which are exported


@dataclass(frozen=True, slots=True, kw_only=True)
class VAETrainConfig:
    """Stage 0: the video VAE.

    Attributes:
        round_trip_weight: weight of the difference between latents and their decoded and re-encoded form.
        face_weight, eye_weight, mouth_weight: extra weights inside boxes, see `box_weights`.
    """

    optimizer: OptimizerConfig
    batch_size: int  # windows per step
    # A stream's window: with fewer frames, later latents would stay untrained.
    num_frames: int = 33  # frames per window, 1 + 4k
    # Neighbouring frames are similar, and the finest decoder levels cost most of the time.
    judged_frames: int = 13  # frames of a window that a step decodes to pixels and scores
    crop: int = 256  # side of the random square that a step trains on, pixels
    # Small, so that it limits the rate and does not shape the latents.
    kl_weight: float = 2e-5  # weight of the mean KL divergence per latent element
    gradient_weight: float = 0.5  # weight of the multi-scale loss of image gradients
    color_weight: float = 1.0  # weight of the loss of colours averaged over cells
    round_trip_weight: float = 0.05
    motion_frames: int = 5  # frames at the end of a chunk that a stream encodes again
    face_weight: float = 1.5
    eye_weight: float = 2.0
    mouth_weight: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionLatentsConfig:
    """Training of the encoder with the decoder, so that latents carry motion and not the look of a picture.

    The encoder sees a clip in one look, and the decoder warps and paints it in another, see `datasets.looks`.

    Attributes:
        restyled_share: share of clips whose two looks differ; the others keep the rendered one.
        kl_weight: weight of the mean KL divergence per latent element.
        round_trip_weight: weight of the difference between latents of the last frames and of their decoded
            form, which has the other look.
        motion_frames: number of those frames, which a stream encodes again.
    """

    restyled_share: float = 0.8
    # A hundred times the plain VAE's: cells that do not move should cost nothing and carry nothing.
    kl_weight: float = 2e-3
    round_trip_weight: float = 0.1
    motion_frames: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceTrainConfig:
    """The decoder that warps a reference, trained on latents of a finished VAE or together with its encoder.

    Attributes:
        late_warped_weight: replaces `warped_weight` from `late_from` on, a share of the first slice.
        critic_from: share of the first slice after which the critic is used; later slices use it at once.
        critic_ramp: share of the slice over which the critic's weight rises linearly to its full value.
        feature_weight: weight of the distance between the critic's features of decoded and real frames.
        face_weight, eye_weight, mouth_weight: extra weights inside boxes, see `box_weights`.
        motion_latents: settings of the encoder's training; None for frozen latents.
    """

    optimizer: OptimizerConfig
    batch_size: int  # windows per step
    num_frames: int = 33  # frames per window, 1 + 4k
    judged_frames: int = 8  # frames of a window that a step decodes to pixels and scores
    # The latents of a transformer have errors, which the decoder must tolerate.
    latent_noise: float = 0.05  # largest noise level added to latents
    gradient_weight: float = 0.5  # weight of the multi-scale loss of image gradients
    # With a loss of the blend alone the mask saturates at 1, and the painting branch does not learn.
    painted_weight: float = 0.5  # weight of a separate loss of the painted frames
    warped_weight: float = 0.5  # weight of a separate loss of the warped frames, which trains the flow
    # Once the flow has converged, regions that no warp can reproduce should not distort it.
    late_warped_weight: float = 0.2
    late_from: float = 0.6
    warped_gradient_weight: float = 0.2  # weight of image gradients in the loss of the warped frames
    flow_weight: float = 0.02  # weight of the flow's change between neighbouring cells
    critic_from: float = 0.5
    critic_ramp: float = 0.1
    adversarial_weight: float = 0.05  # weight of the critic's verdict on decoded frames
    feature_weight: float = 1.0
    # The optimizer is nearly invariant to this scale, but both networks share the bound on the gradient norm.
    critic_weight: float = 0.05  # weight of the critic's own loss
    face_weight: float = 1.5
    eye_weight: float = 3.0
    mouth_weight: float = 8.0
    motion_latents: MotionLatentsConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTConfig:
    """Stage 1: flow matching of the DiT on 33-frame windows (paper section 2).

    Attributes:
        single_motion_probability: share of windows with one clean motion latent, as in a stream's first
            chunk, instead of two.
        speech_dropout: share of windows whose speech features are zero, which guidance needs.
    """

    optimizer: OptimizerConfig
    batch_size: int  # windows per step
    shift: float = 3.0  # the sampler's warp of noise levels towards noise
    single_motion_probability: float = 0.2
    own_reference_probability: float = 0.6  # share of those whose reference is the window's first frame
    # Both against drift: a stream's motion latents carry errors of earlier chunks, decoded and encoded again.
    motion_noise: float = 0.2  # largest noise level added to the motion latents
    reencoded_probability: float = 0.5  # share of windows whose motion latents were decoded and re-encoded
    speech_dropout: float = 0.1
    reference_dropout: float = 0.05  # share of windows whose condition is zero
