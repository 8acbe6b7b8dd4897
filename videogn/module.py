"""The Lightning module: a thin wrapper that trains an I3D; what it does in evaluation is beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassAccuracy

from videogn import checkpoint as checkpoint_format
from videogn.blocks import Memory
from videogn.data.transforms import to_float
from videogn.errors import UsageError
from videogn.evaluation_module import VideoEvaluation
from videogn.i3d import Depth, Variant, i3d_resnet
from videogn.optim import Recipe, Schedule, accumulation, make_optimizer, peak_lr
from videogn.run_setup import (
    InitialWeights,
    check_classes,
    check_frozen_statistics,
    check_frozen_weights,
    check_splits,
    check_sync_batchnorm,
    compile_for_training,
    frozen_stages,
    require_same_classes,
)
from videogn.spec import ClipSpec
from videogn.weights import Inflation

if TYPE_CHECKING:
    from videogn.data.batches import ClipBatch

NormName = Literal["bn", "gn", "ln", "in", "brn", "frozen_bn", "sub_bn", "gn_ws"]


class VideoClassifier(VideoEvaluation):
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
        clips_per_forward: evaluation computes at most this many clips and crops at once; lower it if memory is short
            (`videogn plan` says what it needs), raise it for pictures and short clips.
        compile: train through torch.compile, on CUDA; it decides itself what backward recomputes. Evaluation, whose
            sizes differ between videos, stays eager.
        init_from: file of weights to start from: a checkpoint or export of videogn, or a file of torchvision, timm,
            pytorchvideo, SlowFast, mmaction2, caffe2 or Detectron. In training its classifier is left out if it is for
            other classes. Read by the Trainer when a run starts, where it has no checkpoint to resume; from Python
            without a Trainer, use :func:`videogn.weights.transfer`.
        inflate: how kernels of a picture's network become those of a video's: mean puts W / T into every plane, center
            W into the middle one.
        convert_norm: take the convolutions of a network with another norm, and start the norms anew.
        init_ignore: patterns of names in the file that may be left out, for example ['nonlocal*'].
        freeze_stages: how many of stem, res2, res3, res4, res5 are not trained, their norms' statistics included.
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
        clips_per_forward: int = 4,
        compile: bool = False,
        init_from: str | None = None,
        inflate: Inflation = "mean",
        convert_norm: bool = False,
        init_ignore: list[str] | None = None,
        freeze_stages: int = 0,
    ) -> None:
        super().__init__(clips_per_forward)
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
        if freeze_stages and convert_norm:
            raise ValueError("freeze_stages: stages that are not trained cannot have new norms; leave convert_norm out")
        for stage in frozen_stages(self.network, freeze_stages):
            stage.requires_grad_(False)
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
        self.compile_network = compile
        self.freeze_stages = freeze_stages
        self.initial = (
            InitialWeights(init_from, inflate, convert_norm, tuple(init_ignore or ()))
            if init_from is not None
            else None
        )
        self.train()
        self.class_names: tuple[str, ...] | None = None
        self.clip: ClipSpec | None = None
        self.clips_per_step: int | None = None
        # Logged by on_train_epoch_end and not through `log` in each step, so that an epoch that was interrupted, even
        # after its last step, goes on with what a checkpoint holds of them.
        self.epoch_metrics: Any = torch.nn.ModuleDict(
            {
                "train/top1": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
                "train/videos_replaced": SumMetric(),
            }
        )

    @property
    def architecture(self) -> dict[str, Any]:
        """What a checkpoint must share with this module to be loaded into it."""
        return {name: self.hparams[name] for name in checkpoint_format.ARCHITECTURE}

    def forward(self, clips: Tensor) -> Tensor:
        """Logits (B, num_classes) of uint8 clips (B, 3, T, H, W), RGB, normalised here by the clip specification."""
        if self.clip is None:
            raise UsageError("this model has no clip specification yet: load a checkpoint, or attach a datamodule")
        dtype = next((parameter.dtype for parameter in self.network.parameters()), torch.float32)
        pixels = to_float(clips, self.clip, dtype)
        if self.compile_network and not self.training:
            with torch.compiler.set_stance("force_eager"):  # each size of evaluation clips would be compiled anew
                return self.network(pixels)
        return self.network(pixels)

    # -- set-up ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            check_classes(datamodule.class_names, self.hparams["num_classes"])
            self.class_names = datamodule.class_names or self.class_names
            self.clip = datamodule.clip
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

    def on_fit_start(self) -> None:
        self._take_initial_weights(new_head=True)
        check_frozen_statistics(self.network)

    def on_validation_start(self) -> None:
        self._take_initial_weights(new_head=False)

    def on_test_start(self) -> None:
        self._take_initial_weights(new_head=False)

    def on_predict_start(self) -> None:
        self._take_initial_weights(new_head=False)

    def _take_initial_weights(self, new_head: bool) -> None:
        """Once, and on every process. Not in ``setup``, where it is not known whether a checkpoint will be restored."""
        if self.initial is not None:
            names = self.class_names
            report = self.initial.load(self.network, self.architecture, self.clip, names, new_head=new_head)
            rank_zero_info(report.text())
            check_frozen_weights(report, self.freeze_stages)
            self.initial = None

    def train(self, mode: bool = True) -> VideoClassifier:
        """As for any module, but stages that are frozen stay in evaluation, so that their statistics do."""
        super().train(mode)
        for stage in frozen_stages(self.network, self.freeze_stages):
            stage.eval()
        return self

    # -- training --------------------------------------------------------------------------------------------------

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        logits = self(batch.clips)
        loss = torch.nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        size = len(batch.labels)
        self.epoch_metrics["train/top1"].update(logits, batch.labels)
        self.epoch_metrics["train/videos_replaced"].update(len(batch.replaced))
        self.log("train/loss", self._of_all_processes(loss), prog_bar=True, batch_size=size)
        for path, reason in batch.replaced:
            self.report_once(path, f"{reason}; another video takes its place in training")
        return loss

    def _of_all_processes(self, loss: Tensor) -> Tensor:
        """The mean over the processes in the steps that loggers get; else this one's, for which nobody has to wait."""
        trainer = self._trainer
        if trainer is None or trainer.world_size == 1 or not trainer._logger_connector.should_update_logs:
            return loss
        mean: Tensor = trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean")
        return mean

    def on_train_epoch_end(self) -> None:
        for name, metric in self.epoch_metrics.items():
            self.log(name, metric.compute())
            metric.reset()

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
        schedule = Schedule(optimizer, self.recipe, int(total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[checkpoint_format.KEY] = checkpoint_format.description(
            self.architecture, self.class_names, self.clip
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint.get(checkpoint_format.KEY)
        if stored is None:
            raise UsageError("this checkpoint was not written by videogn: it has no description of its network")
        if self.initial is not None:
            rank_zero_info(f"model.init_from {self.initial.path} is not read: the weights are the checkpoint's")
            self.initial = None
        checkpoint_format.require_same_architecture(stored["architecture"], self.architecture, "checkpoint")
        if stored["class_names"] is not None:
            names = tuple(stored["class_names"])
            require_same_classes(names, self.class_names)
            self.class_names = names
        if self.clip is None and stored["clip"] is not None:
            self.clip = ClipSpec.from_dict(stored["clip"])
