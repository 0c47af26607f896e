"""Training on several devices: `tf.distribute` strategies as a choice of how a program runs.

What is computed does not depend on the choice: one and several replicas agree within rounding.
Batches are global: every worker reads the same ones, and takes its part of each.
"""

import contextlib
import functools
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from rst_tf import cluster
from rst_tf.quiet import quiet

Name = Literal["none", "mirrored", "multiworker"]
_NOT_SHARED = ("tensorboard", "report")
_CHUNK = 2**21  # int64 numbers sent at a time


@contextlib.contextmanager
def scope(name: Name = "none") -> Iterator[None]:
    """Builds and trains networks under a strategy; enter it before TensorFlow has started.

    Args:
        name: none: one device. mirrored: all GPUs of this machine, or its logical CPUs.
            multiworker: the machines that TF_CONFIG names, each of which runs the same program.

    Raises:
        ValueError: The name is unknown, there is one device only, or TF_CONFIG is not right.
        ClusterError: Another worker did not start, or is gone.
    """
    if name not in get_args(Name):
        raise ValueError(f"strategy must be none, mirrored or multiworker; received {name!r}")
    with contextlib.ExitStack() as stack:
        if name == "mirrored":
            stack.enter_context(_mirrored().scope())
        if name == "multiworker":
            workers = cluster.Cluster.from_environment()
            stack.enter_context(_losses_named(workers))
            stack.enter_context(_joined(workers).scope())
        yield
        any_worker(False)  # all leave together: one that left early would look like one that died


@functools.cache  # a second one would confuse the exchanges of the first
def _mirrored():
    with quiet():
        import tensorflow as tf

        strategy = tf.distribute.MirroredStrategy()
    if strategy.num_replicas_in_sync == 1:
        devices = ", ".join(strategy.extended.worker_devices)
        raise ValueError(f"strategy=mirrored needs several devices; there is {devices}")
    return strategy


def _joined(workers: cluster.Cluster):
    """The strategy, made when all workers are there."""
    workers.meet(cluster.PATIENCE)
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "2":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # or it tells of a lost worker at length
    with _limited(workers), _sigterm_kept(), quiet():
        import tensorflow as tf

        _patient_heartbeats(workers)
        return tf.distribute.MultiWorkerMirroredStrategy()


@contextlib.contextmanager
def exchange() -> Iterator[None]:
    """Ends the process if what is done inside, with the other workers, does not end.

    TensorFlow notices a worker that died, but not one that is alive and stuck. (It can limit the
    time of an exchange, but leaves a thread behind for each.)
    """
    if several_workers():
        with _limited(cluster.Cluster.from_environment()):
            yield
    else:
        yield


@contextlib.contextmanager
def _limited(workers: cluster.Cluster) -> Iterator[None]:
    stderr = os.dup(2)  # the terminal, even inside `quiet`

    def give_up():
        os.write(stderr, f"error: {workers.loss('')}\n".encode())
        os._exit(1)  # the main thread is inside TensorFlow and hears nothing

    watch = threading.Timer(cluster.PATIENCE, give_up)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
        watch.join()
        os.close(stderr)


def _patient_heartbeats(workers: cluster.Cluster) -> None:
    """Lets a worker be silent for a minute; TensorFlow's 10 s are too few on a busy machine.

    It has no public name for this.
    """
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager import context

    jobs = workers.jobs()
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{next(iter(jobs))}/replica:0/task:0",
        heartbeat_timeout_in_ms=int(1000 * cluster.HEARTBEAT),
        coordinated_jobs=[CoordinatedJob(name=job, num_tasks=n) for job, n in jobs.items()],
    )


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """TensorFlow's servers take SIGTERM for themselves, and then nothing stops the process."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _losses_named(workers: cluster.Cluster) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        import tensorflow as tf

        errors = tf.errors
        kinds = (errors.UnavailableError, errors.AbortedError, errors.CancelledError)
        kinds += (errors.DeadlineExceededError, errors.FailedPreconditionError)
        if not isinstance(error, kinds):
            raise
        raise workers.loss(str(error)) from error


def several_workers(strategy=None) -> bool:
    """True if a strategy, by default the current one, has more than one worker."""
    if "tensorflow" not in sys.modules:
        return False
    import tensorflow as tf

    strategy = strategy or tf.distribute.get_strategy()
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return several and strategy.cluster_resolver.cluster_spec().as_dict() != {}


def is_chief() -> bool:
    """True on the worker that keeps the results, and where there is only one."""
    return not several_workers() or cluster.Cluster.from_environment().own == 0


def any_worker(flag: bool) -> bool:
    """True on every worker if `flag` is true on any; all have to ask, and wait for each other."""
    return bool(_sum([int(flag)])[0]) if several_workers() else flag


def split(dataset, strategy=None):
    """Global batches as what this worker's replicas take of them, where there are several workers.

    Args:
        dataset: A `tf.data.Dataset`, the same on every worker. With one worker anything is given
            back as it is: Keras splits the batches.
        strategy: None takes the current one.

    Raises:
        ValueError: It is something else, and there are several workers.
    """
    import tensorflow as tf

    strategy = strategy or tf.distribute.get_strategy()
    distributed = isinstance(dataset, tf.distribute.DistributedDataset)
    if dataset is None or distributed or not several_workers(strategy):
        return dataset
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            "several workers need a tf.data.Dataset of global batches, the same on each of them; "
            f"received {type(dataset).__name__}"
        )

    def own(context):
        replicas = strategy.num_replicas_in_sync
        here = replicas // context.num_input_pipelines
        return parts(dataset, replicas, here * context.input_pipeline_id, here)

    return strategy.distribute_datasets_from_function(own)


def parts(dataset, replicas: int, first: int, count: int):
    """The parts of each batch that `count` replicas take, from replica `first` on, one by one.

    Replica k of n takes the examples from size * k // n to size * (k + 1) // n, at least one:
    TensorFlow's operations do not all stand empty batches.

    Args:
        dataset: A `tf.data.Dataset` of tensors whose axis 0 is the batch.
        replicas: Number of all replicas.
        first: The first one of these.
        count: How many these are.
    """
    import tensorflow as tf

    def part(tensor, k):
        size = tf.shape(tensor, tf.int64)[0]
        text = f"a batch must have an example for each of the {replicas} replicas"
        tf.debugging.assert_greater_equal(size, tf.cast(replicas, tf.int64), text)
        return tensor[size * k // replicas : size * (k + 1) // replicas]

    def taken(k, *element):
        element = element if isinstance(dataset.element_spec, tuple) else element[0]
        return tf.nest.map_structure(lambda tensor: part(tensor, k), element)

    if count == 1:
        return dataset.map(lambda *element: taken(tf.constant(first, tf.int64), *element))
    numbers = tf.data.Dataset.range(first, first + count)
    return dataset.flat_map(lambda *element: numbers.map(lambda k: taken(k, *element)))


def check_batches(examples: int, batch_size: int) -> None:
    """Makes sure that every batch of an epoch has an example for each replica.

    Raises:
        ValueError: One has not.
    """
    if "tensorflow" not in sys.modules:
        return
    import tensorflow as tf

    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    smallest = examples % batch_size or batch_size
    if smallest < replicas:
        raise ValueError(
            f"batch_size={batch_size} makes a batch of {smallest} of {examples} images, too few "
            f"for {replicas} replicas; choose another batch_size"
        )


def check_same(settings: Mapping[str, Any]) -> None:
    """Makes sure that all workers run the same.

    Raises:
        ClusterError: They do not; says what differs.
    """
    if not several_workers():
        return
    there = json.loads(_from_chief(json.dumps(dict(settings), default=str).encode()))
    here = json.loads(json.dumps(dict(settings), default=str))
    names = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    differing = any_worker(bool(names))
    if names:
        name = names[0]
        raise cluster.ClusterError(
            f"this worker was given another command than the first one: --{name}="
            f"{here.get(name)} here, {there.get(name)} there"
        )
    if differing:
        raise cluster.ClusterError("another worker was given another command; it says what differs")


@contextlib.contextmanager
def folder_of_worker(folder: Path) -> Iterator[Path]:
    """The folder itself on the worker in charge; on the others a copy that is thrown away.

    So all workers go on from the same state, and only one writes the results; the others need not
    reach its disk.
    """
    if not several_workers():
        yield folder
    elif is_chief():
        _share(folder)
        yield folder
    else:
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place) / folder.name
            _share(copy)
            yield copy


def _share(folder: Path) -> None:
    """Sends the files of the first worker's folder to the others' folders."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if is_chief() else []
    names = [str(path.relative_to(folder)) for path in files]
    names = [name for name in names if not name.startswith((*_NOT_SHARED, "."))]
    for name in json.loads(_from_chief(json.dumps(names).encode())):
        content = _from_chief((folder / name).read_bytes() if is_chief() else b"")
        if not is_chief():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def _from_chief(content: bytes) -> bytes:
    """What the first worker has, on every worker."""
    import numpy as np

    numbers = np.frombuffer(content + bytes(-len(content) % 8), np.int64)
    length = int(_sum([len(content) if is_chief() else 0])[0])
    words = -(-length // 8)
    numbers = numbers if is_chief() else np.zeros(words, np.int64)
    parts = [_sum(numbers[i : i + _CHUNK]) for i in range(0, words, _CHUNK)]
    return np.concatenate([*parts, np.zeros(0, np.int64)]).astype(np.int64).tobytes()[:length]


def _sum(numbers):
    """Sum over the workers."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        value = tf.constant(numbers, tf.int64)
    with exchange():
        reduced = tf.distribute.get_strategy().reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
        return reduced.numpy()
