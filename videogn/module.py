"""The Lightning module: a thin wrapper that trains an I3D and evaluates whole videos."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from videogn import checkpoint as checkpoint_format
from videogn.blocks import Memory
from videogn.data.transforms import to_float
from videogn.errors import UsageError
from videogn.evaluation import VideoAccuracy, VideoScores
from videogn.i3d import Depth, Variant, i3d_resnet
from videogn.optim import Recipe, accumulation, lr_factor, make_optimizer, peak_lr
from videogn.run_setup import check_splits, check_sync_batchnorm, compile_for_training
from videogn.spec import ClipSpec

if TYPE_CHECKING:
    from videogn.data.batches import ClipBatch, EvalVideo, VideoBatch

log = logging.getLogger(__name__)

NormName = Literal["bn", "gn", "ln", "in", "brn", "frozen_bn", "sub_bn", "gn_ws"]


class VideoClassifier(LightningModule):
    """An I3D ResNet that learns from clips and is judged on videos.

    From Python, ``norm`` may also be a callable from a number of channels to a layer; a checkpoint of such a model
    needs the same ``norm`` passed to ``load_from_checkpoint``.

    Args:
        num_classes: number of classes; the data must have as many.
        depth: of the ResNet, 50 or 101.
        variant: 32x2 strides in time in the stem (paper's network for 32 and 64 frames), 8x8 does not.
        norm: normalisation layer.
        norm_kwargs: its arguments, for example num_groups: 16. null takes the norm's defaults.
        dropout: probability before the classifier.
        width: channels of the stem; 64 is the standard network.
        memory: what backward recomputes to save memory: keep nothing, recompute norms and ReLUs, low also the last
            1x1x1 convolutions, lowest whole blocks; standard is recompute on CUDA and keep elsewhere.
        zero_init_last_norm: start the last gamma of each residual block at zero.
        label_smoothing: of the cross entropy, in [0, 1).
        recipe: optimiser and schedule.
        clips_per_forward: evaluation computes at most this many clips at once; lower it if memory is short.
        compile: train through torch.compile, on CUDA; it decides itself what backward recomputes. Evaluation, whose
            sizes differ between videos, stays eager.
    """

    def __init__(
        self,
        num_classes: int = 400,
        depth: Depth = 50,
        variant: Variant = "32x2",
        norm: NormName = "gn",
        norm_kwargs: dict[str, Any] | None = None,
        dropout: float = 0.5,
        width: int = 64,
        memory: Memory = "standard",
        zero_init_last_norm: bool = True,
        label_smoothing: float = 0.0,
        recipe: Recipe = Recipe(),  # noqa: B008  frozen
        clips_per_forward: int = 10,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if clips_per_forward < 1:
            raise ValueError(f"clips_per_forward: expected at least 1, found {clips_per_forward}")
        if compile:
            if memory not in ("standard", "keep"):
                raise ValueError(
                    f"compile: the compiler decides what backward recomputes, found memory={memory!r}; leave memory out"
                )
            memory = "keep"
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing: expected a value in [0, 1), found {label_smoothing}")
        self.network = i3d_resnet(
            num_classes, depth, variant, norm, norm_kwargs, dropout, width, memory, zero_init_last_norm
        )
        for parameter in self.network.parameters():
            # Kernels of one position look the same either way, and DDP warns where their strides changed.
            if parameter.dim() == 5 and parameter.shape[2:].numel() > 1:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        # Hyperparameters rebuild the network from a checkpoint; how it is trained is the command's own matter.
        self.save_hyperparameters(
            {
                "num_classes": num_classes,
                "depth": depth,
                "variant": variant,
                "width": width,
                "norm": norm if isinstance(norm, str) else "custom",
                "norm_kwargs": dict(norm_kwargs) if norm_kwargs else None,
                "dropout": dropout,
            }
        )
        self.label_smoothing = label_smoothing
        self.recipe = recipe
        self.clips_per_forward = clips_per_forward
        self.compile_network = compile
        self.class_names: tuple[str, ...] | None = None
        self.clip: ClipSpec | None = None
        self.clips_per_step: int | None = None
        self.train_top1 = MulticlassAccuracy(num_classes, average="micro")
        self.scores = VideoAccuracy()
        self._reported: set[str] = set()

    @property
    def architecture(self) -> dict[str, Any]:
        """What a checkpoint must share with this module to be loaded into it."""
        return {name: self.hparams[name] for name in checkpoint_format.ARCHITECTURE}

    def forward(self, clips: Tensor) -> Tensor:
        """Logits (B, num_classes) of uint8 clips (B, 3, T, H, W), RGB, normalised here by the clip specification."""
        if self.clip is None:
            raise UsageError("this model has no clip specification yet: load a checkpoint, or attach a datamodule")
        pixels = to_float(clips, self.clip)
        if self.compile_network and not self.training:
            with torch.compiler.set_stance("force_eager"):  # each size of evaluation clips would be compiled anew
                return self.network(pixels)
        return self.network(pixels)

    # -- set-up ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            self._take_data(datamodule.class_names, datamodule.clip)
        check_sync_batchnorm(self.hparams["norm"], self.trainer.strategy)
        if stage == "fit" and datamodule is not None:
            check_splits(self.network, datamodule.batch_size)
            per_forward = datamodule.batch_size * self.trainer.world_size
            batches = accumulation(self.recipe, per_forward)
            if batches is not None:
                self.trainer.accumulate_grad_batches = batches
            self.clips_per_step = per_forward * self.trainer.accumulate_grad_batches
        if stage == "fit" and self.compile_network:
            compile_for_training(self.network, self.trainer.strategy.root_device)

    def _take_data(self, class_names: tuple[str, ...] | None, clip: ClipSpec) -> None:
        num_classes = self.hparams["num_classes"]
        if class_names is not None and len(class_names) != num_classes:
            raise UsageError(
                f"model.num_classes: the data has {len(class_names)} classes, the model {num_classes}. "
                f"Set --model.num_classes {len(class_names)}, or check data.root and data.class_names."
            )
        if class_names is not None:
            self.class_names = tuple(class_names)
        self.clip = clip

    # -- training --------------------------------------------------------------------------------------------------

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        logits = self(batch.clips)
        loss = torch.nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        size = len(batch.labels)
        self.train_top1(logits, batch.labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        self.log("train/top1", self.train_top1, on_step=False, on_epoch=True, batch_size=size)
        replaced = float(len(batch.replaced))
        self.log("train/videos_replaced", replaced, on_step=False, on_epoch=True, reduce_fx="sum", sync_dist=True)
        for path, reason in batch.replaced:
            self._report_once(path, f"{reason}; another video takes its place in training")
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        if self.recipe.lr_clips and self.clips_per_step is None:
            raise UsageError("recipe.lr_clips needs a datamodule with a batch_size to know the clips per step")
        lr = peak_lr(self.recipe, self.clips_per_step or 0)
        # Lightning refuses to clip the gradients of a fused optimiser under mixed precision, bfloat16 included.
        clipped = self.trainer.gradient_clip_val and isinstance(self.trainer.precision_plugin, MixedPrecision)
        optimizer = make_optimizer(self.network, self.recipe, lr, fused=not clipped)
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise UsageError("the schedule needs the length of the run: set trainer.max_epochs or trainer.max_steps")
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(self.recipe, step, int(total)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # -- evaluation ------------------------------------------------------------------------------------------------

    def view_probabilities(self, frames: Tensor, index: Tensor, crops: Sequence[tuple[int, int, int, int]]) -> Tensor:
        """Softmax outputs of all clips and crops of one video, computed ``clips_per_forward`` at a time.

        Args:
            frames: uint8 (U, H, W, 3), the distinct frames that the clips need.
            index: int64 (K, T), which of them each clip shows.
            crops: (top, left, height, width) of each crop in pixels, all of one size.

        Returns:
            float32 (K * crops, num_classes), the crops of a clip one after another.
        """
        views = [(clip, crop) for clip in index for crop in crops]
        probabilities = []
        for i in range(0, len(views), self.clips_per_forward):
            pixels = [
                frames[clip, y : y + h, x : x + w] for clip, (y, x, h, w) in views[i : i + self.clips_per_forward]
            ]
            clips = torch.stack(pixels).permute(0, 4, 1, 2, 3)  # T,H,W,C side by side are channels_last_3d
            probabilities.append(self(clips).float().softmax(dim=1))
        return torch.cat(probabilities)

    def _start_evaluation(self, loaders: Any) -> None:
        loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
        self.scores.reset()
        self.scores.expected = len(loader.dataset)

    def _evaluate(self, batch: VideoBatch) -> None:
        for video in batch.videos:
            if video.error is not None:
                self.scores.update(video.video, None)
                self._report_once(video.path, f"{video.error}; counted in videos_failed and in no accuracy")
            else:
                probabilities = self.view_probabilities(video.frames, video.index, video.crops)
                self.scores.update(video.video, probabilities, video.label, video.path)

    def _report_once(self, path: str, text: str) -> None:
        if path not in self._reported:
            self._reported.add(path)
            log.warning("%s: %s", path, text)

    def _log_scores(self, prefix: str) -> VideoScores:
        scores = self.scores.compute()
        # Already reduced over ranks by the metric, which counts each video once; a mean over ranks would not.
        self.log_dict(
            {
                f"{prefix}/loss": scores.loss,
                f"{prefix}/top1": scores.top1,
                f"{prefix}/top5": scores.top5,
                f"{prefix}/clip_top1": scores.clip_top1,
                f"{prefix}/clip_top5": scores.clip_top5,
                f"{prefix}/videos": float(scores.videos),
                f"{prefix}/videos_failed": float(scores.failed),
            }
        )
        return scores

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation(self.trainer.val_dataloaders)

    def validation_step(self, batch: VideoBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        self._start_evaluation(self.trainer.test_dataloaders)

    def test_step(self, batch: VideoBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def predict_step(self, batch: VideoBatch, batch_idx: int) -> list[tuple[EvalVideo, Tensor | None]]:
        """Each video with its mean probabilities (num_classes,) on the CPU; None where decoding failed."""
        return [
            (
                video,
                None
                if video.error is not None
                else self.view_probabilities(video.frames, video.index, video.crops).mean(dim=0).cpu(),
            )
            for video in batch.videos
        ]

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[checkpoint_format.KEY] = checkpoint_format.description(
            self.architecture, self.class_names, self.clip
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint.get(checkpoint_format.KEY)
        if stored is None:
            raise UsageError("this checkpoint was not written by videogn: it has no description of its network")
        checkpoint_format.require_same_architecture(stored["architecture"], self.architecture, "checkpoint")
        if stored["class_names"] is not None:
            names = tuple(stored["class_names"])
            if self.class_names is not None and names != self.class_names:
                different = next(
                    i for i, pair in enumerate(zip(names, self.class_names, strict=True)) if pair[0] != pair[1]
                )
                raise UsageError(
                    f"class names: class {different} is {names[different]!r} in the checkpoint and "
                    f"{self.class_names[different]!r} in the data; set data.class_names to the checkpoint's order"
                )
            self.class_names = names
        if self.clip is None and stored["clip"] is not None:
            self.clip = ClipSpec.from_dict(stored["clip"])
