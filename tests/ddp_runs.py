"""Groups of processes for tests: functions of this file on every rank."""

import copy
import hashlib
import json
import os
import socket
import sys
import traceback
from pathlib import Path

from commands import TIMEOUT, command_line


def groups(folder, calls, timeout=TIMEOUT, launcher=()):
    """Calls functions of this file, each with one argument, on every rank of groups of processes.

    Args:
        folder: for logs.
        calls: by number of processes, then by the name of the function: its argument.
        timeout: for everything together, in seconds.
        launcher: what starts one process for each rank, instead of forks of one, which cannot use CUDA.

    Returns:
        By number of processes, then of each rank, then by function: what came out, through JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "calls.json").write_text(json.dumps(calls))
    code, output = command_line(folder, script=[*launcher, __file__], timeout=timeout)
    logs = "\n".join(f"{log.name}\n{log.read_text()[-2000:]}" for log in sorted(folder.glob("*.log")))
    assert code == 0, f"{output}\n{logs}"
    return {world: [json.loads((folder / f"{world}-{r}.json").read_text()) for r in range(world)] for world in calls}


# -- on every rank -----------------------------------------------------------------------------------------------------


def run_commands(jobs):
    """Runs commands one after another; of each, every digit of the scores, and hashes after the last step."""
    from videogn.cli import main
    from videogn.evaluation import VideoAccuracy
    from videogn.module import VideoClassifier

    found = {}
    compute = VideoAccuracy.compute

    def recorded(self):
        scores = compute(self)
        found[name].setdefault("scores", []).append({k: repr(v) for k, v in scores._asdict().items()})
        return scores

    def on_train_batch_end(self, *_):  # validation would begin with DDP handing rank 0's buffers to all
        found[name]["state"] = {key: fingerprint(tensor) for key, tensor in self.network.state_dict().items()}

    VideoAccuracy.compute, VideoClassifier.on_train_batch_end = recorded, on_train_batch_end
    for name, arguments in jobs.items():
        found[name] = {}
        assert main(arguments) == 0, name
    VideoAccuracy.compute = compute
    del VideoClassifier.on_train_batch_end
    return found


def train_curves(jobs):
    """Runs commands of training; of each, every digit of each batch's loss, and hashes of the weights at the end."""
    from videogn.cli import main
    from videogn.module import VideoClassifier

    found = {}
    step = VideoClassifier.training_step

    def recorded(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        losses.append(repr(loss.item()))
        modules[:] = [self]
        return loss

    VideoClassifier.training_step = recorded
    try:
        for name, arguments in jobs.items():
            losses, modules = [], []
            assert main(arguments) == 0, name
            weights = {key: fingerprint(tensor) for key, tensor in modules[0].network.state_dict().items()}
            found[name] = {"losses": losses, "weights": weights}
    finally:
        VideoClassifier.training_step = step
    return found


def train_networks(cases):
    """Two steps of networks under torch's DDP, in float64, each rank with clips of its own.

    Of each case ``(norm, arguments, memory)``: hashes of what it ends with, and how far the gradients of the first step
    are from the mean of those of the ranks' shares, and from those of the whole batch, as a share of the largest.
    """
    import torch
    import torch.distributed as dist

    from videogn.i3d import i3d_resnet
    from videogn.norms import average_statistics

    torch.set_num_threads(1)
    dist.init_process_group("gloo")  # Lightning takes the one that it finds
    rank, world = dist.get_rank(), dist.get_world_size()
    found = []
    for norm, arguments, memory in cases:
        torch.manual_seed(0)
        network = i3d_resnet(5, 50, "8x8", norm, arguments, 0.0, 8, memory, zero_init_last_norm=False).double().train()
        steps = torch.randn(2, world, 2, 3, 4, 32, 32, dtype=torch.float64)
        labels = torch.randint(5, (2, world, 2))
        shares = [_gradients(copy.deepcopy(network), *share) for share in zip(steps[0], labels[0], strict=True)]
        mean = [sum(each) / world for each in zip(*shares, strict=True)]
        whole = _gradients(copy.deepcopy(network), steps[0].flatten(0, 1), labels[0].flatten())
        wrapped = torch.nn.parallel.DistributedDataParallel(network)
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
        errors = None
        for clips, targets in zip(steps, labels, strict=True):
            optimizer.zero_grad()
            gradients = _gradients(wrapped, clips[rank], targets[rank])
            errors = errors or [_difference(gradients, mean), _difference(gradients, whole)]
            optimizer.step()
            average_statistics(network)
        states = {name: fingerprint(tensor) for name, tensor in network.state_dict().items()}
        found.append({"state": states, "of shares": errors[0], "of batch": errors[1]})
    return found


def train_synchronised(device):
    """Two steps with synchronised batch norms on every rank, against one network with the whole batch, in float64.

    On CUDA with SyncBatchNorm, each rank on a device of its own under NCCL if there are enough, else all on one under
    gloo. On a CPU, which torch has no SyncBatchNorm for, with a layer that does what its documentation says.

    How far gradients and state are from those of the whole batch, as a share of the largest; the same for the gradients
    without synchronisation; hashes of the state.
    """
    import torch
    import torch.distributed as dist

    from videogn.i3d import i3d_resnet

    cuda = device == "cuda"
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    enough = cuda and torch.cuda.device_count() >= world
    if cuda:
        device = f"cuda:{rank if enough else 0}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if enough else "gloo")
    torch.manual_seed(0)
    # Not "standard": on CUDA that would recompute the batch norms, but not those that are synchronised.
    whole = i3d_resnet(5, 50, "8x8", "bn", None, 0.0, 8, "keep", zero_init_last_norm=False).double().train().to(device)
    clips = torch.randn(2, world, 2, 3, 4, 32, 32, dtype=torch.float64).to(device)
    labels = torch.randint(5, (2, world, 2)).to(device)

    def wrap(network):
        ids = [torch.device(device).index] if cuda else None
        return torch.nn.parallel.DistributedDataParallel(network, device_ids=ids)

    plain = wrap(copy.deepcopy(whole))
    synced = copy.deepcopy(whole)
    synced = torch.nn.SyncBatchNorm.convert_sync_batchnorm(synced) if cuda else _synchronised(synced)
    wrapped = wrap(synced)
    errors, unsynchronised = [], None
    for x, y in zip(clips, labels, strict=True):
        expected = _gradients(whole, x.flatten(0, 1), y.flatten())
        errors.append(_difference(_gradients(wrapped, x[rank], y[rank]), expected))
        if unsynchronised is None:
            unsynchronised = _difference(_gradients(plain, x[rank], y[rank]), expected)
        for network in (whole, synced):
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
    states = [[t.double() for t in network.state_dict().values()] for network in (synced, whole)]
    return {
        "gradients": max(errors),
        "without": unsynchronised,
        "state": _difference(*states),
        "hashes": {name: fingerprint(tensor) for name, tensor in synced.state_dict().items()},
    }


def _synchronised(network):
    """Batch norms over the clips of all ranks, by a sum that autograd knows."""
    import torch
    import torch.distributed as dist
    from torch.distributed.nn.functional import all_reduce

    from videogn.norms import BatchNorm

    class Synchronised(BatchNorm):
        def forward(self, x):
            shape = (1, -1, 1, 1, 1)
            count = x.numel() // x.shape[1] * dist.get_world_size()
            mean = all_reduce(x.sum(dim=(0, 2, 3, 4))) / count
            centred = x - mean.view(shape)
            var = all_reduce(centred.square().sum(dim=(0, 2, 3, 4))) / count
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * count / (count - 1), self.momentum)
            return centred * ((var + self.eps).rsqrt() * self.weight).view(shape) + self.bias.view(shape)

    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            layer.__class__ = Synchronised
    return network


def _gradients(network, clips, labels):
    from torch.nn.functional import cross_entropy

    cross_entropy(network(clips), labels).backward()
    return [p.grad.clone() for p in network.parameters() if p.requires_grad]


def _difference(found, expected):
    largest = max(float(tensor.abs().max()) for tensor in expected)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / largest


def fingerprint(tensor):
    """Of the bits of a tensor."""
    return hashlib.sha256(tensor.detach().contiguous().cpu().numpy().tobytes()).hexdigest()[:16]


def main(folder):
    """Is a rank, where a launcher has started it as one; else forks the ranks, when all that is slow is imported."""
    everything = json.loads((folder / "calls.json").read_text())
    if "RANK" in os.environ:
        world = os.environ["WORLD_SIZE"]
        _be_rank(folder / f"{world}-{os.environ['RANK']}", everything[world])
    import videogn.training_cli  # noqa: F401

    for world, calls in everything.items():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": world, "NODE_RANK": "0"}
        for rank in range(int(world)):
            if os.fork() == 0:
                os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
                _be_rank(folder / f"{world}-{rank}", calls)
        for _ in range(int(world)):
            if os.wait()[1] != 0:
                return 1  # the test kills those who wait for the one that failed
    return 0


def _be_rank(place, calls):
    with open(f"{place}.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    code = 1
    try:
        result = {function: globals()[function](argument) for function, argument in calls.items()}
        Path(f"{place}.json").write_text(json.dumps(result))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
