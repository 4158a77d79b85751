"""`fusedmlp demo`: a classifier of handwritten digits, how good it is, and how fast beside PyTorch."""

import statistics
import time
from dataclasses import dataclass

import numpy as np

from fusedmlp.backends import SGD, Asked, chosen
from fusedmlp.backends.install import command
from fusedmlp.model.minibatches import batches
from fusedmlp.model.mlp import MLP

SIZES = [64, 256, 10]
EPOCHS = 60
BATCH_SIZE = 32
RATE, MOMENTUM = 0.1, 0.9
SEEDS = range(5)
OPTION = Asked("--backend", "--backend {}")


@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits of 8 x 8 pixels, x from 0 to 1, y from 0 to 9; a fifth of each digit is held out."""

    x: np.ndarray
    y: np.ndarray
    held_out: tuple[np.ndarray, np.ndarray]


def load_digits() -> Digits:
    """The digits that ship inside scikit-learn (E. Alpaydin and C. Kaynak, UCI repository, 1998)."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(f"the digits come with scikit-learn: {command('sklearn')} ({error})") from error
    x, y = load_digits(return_X_y=True)
    x, held_x, y, held_y = train_test_split(x / 16, y, test_size=0.2, stratify=y, random_state=0)
    return Digits(x, y, (held_x, held_y))


def classifier(seed: int, backend: str) -> MLP:
    return MLP(SIZES, activation="relu", output="softmax", seed=seed, backend=backend)


def train(model: MLP, digits: Digits, epochs: int = EPOCHS, progress: bool = False) -> float:
    """Trains, and returns the seconds of a step: the median over the epochs."""
    marks = [0.0]
    history = model.fit(
        digits.x,
        digits.y,
        loss="cross_entropy",
        epochs=epochs,
        optimizer=SGD(RATE, MOMENTUM),
        batch_size=BATCH_SIZE,
        validation_data=digits.held_out,
        callbacks=[lambda _, history: marks.append(history.seconds)],
        progress=progress,
    )
    return float(np.median(np.diff(marks))) * history.epochs / history.steps


def accuracy(model: MLP, digits: Digits) -> float:
    x, y = digits.held_out
    return float(np.mean(model(x).argmax(1) == y))


def run(backend: str = "auto") -> float:
    """Trains, prints, and returns the held-out accuracy of seed 0. BackendUnavailable or ValueError, before anything is
    loaded, for a backend that is not there."""
    name, reason = chosen(backend, OPTION)
    digits = load_digits()
    print(f"{len(digits.y)} digits to learn from, {len(digits.held_out[1])} held out")
    train(classifier(0, name), digits, epochs=1)  # compiles, or loads what is compiled: not what is timed
    model = classifier(0, name)
    start = model.state_dict()
    print(f"{model!r}, SGD with momentum, batches of {BATCH_SIZE}, {EPOCHS} epochs")
    step = train(model, digits, progress=True)
    reached = accuracy(model, digits)
    others = [classifier(seed, name) for seed in SEEDS[1:]]
    for other in others:
        train(other, digits)
    median = statistics.median([reached, *(accuracy(other, digits) for other in others)])

    print(f"held-out accuracy  {reached:.4f}; median of {len(SEEDS)} seeds {median:.4f}")
    print(f"time per step      {1e6 * step:.1f} µs (median of the epochs)")
    plan = [line for line in model.describe().splitlines() if line.startswith("batches of")][-1]
    print(f"threads            {plan}")
    print(f"backend            {name}, {reason}")
    try:
        torch_accuracy, torch_step = pytorch(digits, start)
    except ImportError:
        print("PyTorch            not installed, so there is no comparison")
    else:
        print(
            f"PyTorch            {torch_accuracy:.4f}, {1e6 * torch_step:.1f} µs a step from the same weights in the "
            f"same batch order; ours is {torch_step / step:.1f} times as fast"
        )
    return reached


def pytorch(digits: Digits, start: dict[str, np.ndarray]) -> tuple[float, float]:
    """Held-out accuracy and seconds per step of the same training in PyTorch, from the parameters `start`: the median
    over the epochs, with all its threads or with one, whichever is faster; the first epochs try both."""
    import torch

    x, y = torch.tensor(digits.x, dtype=torch.float32), torch.tensor(digits.y)
    inputs, hidden, classes = SIZES
    network = torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, classes))
    network.load_state_dict({name: torch.from_numpy(value) for name, value in start.items()})
    optimizer, loss = torch.optim.SGD(network.parameters(), RATE, MOMENTUM), torch.nn.CrossEntropyLoss()
    numbers, all_threads = np.arange(len(y)), torch.get_num_threads()
    seconds: dict[int, list[float]] = {all_threads: [], 1: []}
    try:
        for epoch in range(EPOCHS):
            threads = list(seconds)[epoch % len(seconds)] if epoch < 6 else faster(seconds)
            torch.set_num_threads(threads)
            order = [torch.from_numpy(rows) for rows, _ in batches(numbers, numbers, BATCH_SIZE, seed=0, epoch=epoch)]
            started = time.perf_counter()
            for rows in order:
                optimizer.zero_grad()
                loss(network(x[rows]), y[rows]).backward()
                optimizer.step()
            seconds[threads].append((time.perf_counter() - started) / len(order))
    finally:
        torch.set_num_threads(all_threads)
    held_x, held_y = digits.held_out
    with torch.no_grad():
        predicted = network(torch.tensor(held_x, dtype=torch.float32)).argmax(1).numpy()
    return float(np.mean(predicted == held_y)), statistics.median(seconds[faster(seconds)])


def faster(seconds: dict[int, list[float]]) -> int:
    """The number of threads whose epochs took less time."""
    return min((times for times in seconds.items() if times[1]), key=lambda times: statistics.median(times[1]))[0]
