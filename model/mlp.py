"""The multilayer perceptron as its users see it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fusedmlp.backends import arrays, get_backend, optimizers
from fusedmlp.backends.backend import Backend
from fusedmlp.backends.plan import Plan
from fusedmlp.kernels import activations, initializers, losses
from fusedmlp.kernels.activations import Activation
from fusedmlp.kernels.losses import Loss
from fusedmlp.kernels.optimizers import Hyperparameters
from fusedmlp.kernels.program import MOST, Network
from fusedmlp.model import checks, data, training
from fusedmlp.model.history import History
from fusedmlp.model.turn import Turn
from fusedmlp.model.validation import Validation

Callback = Callable[["MLP", History], Any]


class MLP:
    """Dense layers, an activation behind each: a⁽ˡ⁾ = f(W⁽ˡ⁾ a⁽ˡ⁻¹⁾ + b⁽ˡ⁾), trained by the fused kernels of a backend.

    sizes       the inputs, then the width of each layer: [784, 128, 10]
    activation  of the hidden layers: a name, a record such as fm.activations.leaky_relu(slope=0.2), or a list of one
                for each hidden layer
    output      the activation of the last layer: what model(x) returns. "sigmoid" with loss "binary_cross_entropy" and
                "softmax" with "cross_entropy" are fused pairs; with "identity" these losses read logits
    bias        whether the layers have biases
    init        "torch", "he", "xavier" or "zeros" (kernels/initializers.py); or arrays: a mapping with the keys of
                state_dict(), or a list in its order
    dtype       "float32" or "float64": of parameters, data and arithmetic
    precision   of the products: None or the dtype; for float32 on cuda also "tf32" or "bf16", which let cuBLASLt round
                the factors of those products that a plan leaves to it. All else stays true float32: parameters, sums,
                and products that the kernels of this library make, be it all of them (docs/numerics.md)
    seed        0 to 2**64 - 1; it alone fixes the initial weights and every batch order
    backend     "auto": FUSEDMLP_BACKEND, else cuda where a device can be used, else cpu; a name; or a backend
    plan        a fusedmlp.backends.Plan: how training is shared out among workers; another model's `plan(batch_size)`
                is one. None: chosen by the backend

    Raises TypeError or ValueError that names the argument, and BackendUnavailable with cause and remedy. While one
    thread is in a call of a model, another call, but for those of a callback, raises RuntimeError.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str | Activation | Sequence[str | Activation] = "relu",
        output: str | Activation = "identity",
        *,
        bias: bool = True,
        init: str | Mapping[str, Any] | Sequence[Any] = "torch",
        dtype: Any = "float32",
        precision: str | None = None,
        seed: int = 0,
        backend: str | Backend = "auto",
        plan: Plan | None = None,
    ) -> None:
        widths = _sizes(sizes)
        hidden = _hidden_activations(activation, len(widths) - 2)
        checks.one_of("bias", bias, (True, False))
        self._network = Network(widths, (*hidden, activations.get(output, "output")), bias)
        self._dtype = arrays.float_dtype(dtype)
        self._seed = checks.seed(seed)
        if plan is not None and not isinstance(plan, Plan):
            raise TypeError(f"plan: expected None or a fusedmlp.backends.Plan, got {plan!r}")
        self._backend = backend if isinstance(backend, Backend) else get_backend(backend)
        parameters = self._initial(init)
        self._executor = self._backend.executor(self._network, self._dtype.name, plan, precision)
        self._executor.write(parameters)
        self._turn = Turn(self._backend.memory)
        self._epochs = 0
        self._named_optimizers: dict[str, Hyperparameters] = {}

    def __reduce__(self) -> Any:
        raise TypeError(
            "a model is not copied or pickled yet: keep model.state_dict() (numpy.savez takes it), and give it to "
            "load_state_dict of a model made with the same arguments"
        )

    # Using it.

    def __call__(self, x: Any, batch_size: int | None = None) -> Any:
        """The network's output, (N, O) for x (N, I), or (O,) for one row x (I,), in the model's dtype: an array of
        NumPy, or of x's library where x lies on the model's device.

        x           numbers: an array, a DataFrame or nested lists; converted to the model's dtype
        batch_size  the most rows that are computed at a time; it bounds the memory that activations take

        TypeError for what is not numbers, ValueError for a wrong shape or batch size.
        """
        given = data.inputs(x, self._network.sizes[0], self._dtype, self._backend.memory)
        if batch_size is not None:
            batch_size = checks.whole("batch_size", batch_size, 1)
        with self._turn:
            y = self._executor.predict(data.as_rows(given), batch_size)
        return self._giver(x)(y[0] if given.ndim == 1 else y)

    def loss_and_gradients(
        self,
        x: Any,
        y: Any,
        loss: str | Loss = "cross_entropy",
        *,
        reduction: str = "mean",
        sample_weight: Any = None,
    ) -> tuple[float, dict[str, Any]]:
        """The loss of x and y as one batch, and its gradient with respect to every parameter, by the parameters' names.

        x, y, loss, sample_weight  as in `fit`; x (I,) is one row
        reduction                  "mean" or "sum" over the rows, as in `fit`
        returns                    the loss, and new arrays of the model's dtype and the parameters' shapes; on the
                                   model's device if x lies there, of x's library, else of NumPy

        Nothing of the model is written. TypeError or ValueError for bad arguments.
        """
        rule = losses.get(loss)
        checks.one_of("reduction", reduction, ("mean", "sum"))
        memory = self._backend.memory
        batch = data.prepare(self._network, self._dtype, rule, x, y, sample_weight, memory)
        rows = len(batch.x)
        mass = training.batch_mass(self._executor.host_weights(batch), np.arange(rows), rows)
        (factor,) = training.row_factors(rule, reduction, mass, self._network.sizes[-1])
        with self._turn:
            value, gradients = self._executor.gradients(batch, rule, factor)
        given = self._giver(x)
        return value, {name: given(gradients[name]) for name, _ in self._network.parameters()}

    def update(self, gradients: Mapping[str, Any], optimizer: str | Hyperparameters = "adam") -> None:
        """One step of every parameter by gradients such as `loss_and_gradients` gives, wherever they lie. The
        optimizer's state for this model goes on from its last step, here or in `fit`; a name is one optimizer for each
        model. TypeError or ValueError before anything is written, where names, shapes or the optimizer are wrong."""
        chosen = self._optimizer(optimizer)
        given = self._arrays("gradients", gradients)
        with self._turn:
            self._executor.apply(given, chosen)
        self._handed_back(gradients)

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        loss: str | Loss,
        epochs: int,
        reduction: str = "mean",
        optimizer: str | Hyperparameters = "adam",
        batch_size: int = 32,
        shuffle: bool = True,
        validation_data: tuple[Any, Any] | None = None,
        sample_weight: Any = None,
        callbacks: Sequence[Callback] = (),
        progress: bool | str = "auto",
        seed: int | None = None,
    ) -> History:
        """Trains the model and returns what happened, epoch by epoch. A second call goes on where the first ended.

        x                (N, I) numbers: an array, a DataFrame or nested lists; (I,) is one row
        y                (N, O) numbers, or (N,) where O is 1; for loss "cross_entropy" class indices (N,) of any
                         integer dtype, or probability rows (N, O); for "binary_cross_entropy" numbers from 0 to 1
        loss             "mse", "half_mse", "mae", "huber", "binary_cross_entropy", "cross_entropy", or a record
        epochs           passes over the data
        reduction        of a batch's loss, and so of its gradients: "mean", or "sum" over the rows
        optimizer        "sgd", "adam", "adamw" or "rmsprop" with their defaults, or an object such as fm.SGD(0.1). Its
                         state for this model (momentum, step count) goes on from call to call; a name is one
                         optimizer for each model
        batch_size       rows of a step; the last batch of an epoch takes what is left
        shuffle          a new order for each epoch, that of fm.batches; False: the order of the rows
        validation_data  (x, y): its loss and accuracy are taken after each epoch
        sample_weight    (N,): finite weights of at least 0, of the rows' losses. A batch's mean divides by their sum;
                         a batch whose weights are all 0 has loss and gradients 0
        callbacks        called as callback(model, history) after each epoch; if one returns True, this was the last
                         epoch. An exception in one ends the training and goes through
        progress         True: on the error stream; False: none; "auto": a bar on a terminal, elsewhere a line every
                         5 seconds
        seed             of the batch order, epochs counted from 0; None: the model's seed, epochs counted on from the
                         last `fit`, so that the model's one seed fixes everything

        Ctrl-C ends the training: the history so far is returned, with `interrupted` set and a word on the error
        stream, and the model holds the weights of the last finished step. In an epoch's last step that epoch is ended
        first, by its validation and callbacks, which a second Ctrl-C ends. Before the first step it goes through. A
        loss that is not finite raises NonFiniteLoss, and the model holds the weights before that step. Bad arguments
        raise TypeError or ValueError before anything is written.
        """
        rule = losses.get(loss)
        chosen = self._optimizer(optimizer)
        checks.one_of("reduction", reduction, ("mean", "sum"))
        calls = _callbacks(callbacks)
        with self._turn:
            given = data.prepare(self._network, self._dtype, rule, x, y, sample_weight, self._backend.memory)
            task = training.Task(
                data=given,
                loss=rule,
                reduction=reduction,
                optimizer=chosen,
                batch_size=min(checks.whole("batch_size", batch_size, 1), len(given.x)),
                epochs=checks.whole("epochs", epochs, 1),
                shuffle=checks.one_of("shuffle", shuffle, (True, False)),
                seed=self._seed if seed is None else checks.seed(seed),
                first_epoch=self._epochs if seed is None else 0,
                progress=checks.one_of("progress", progress, ("auto", True, False)),
            )
            validation = self._validation(validation_data, rule, reduction)

            def after_epoch(history: History) -> bool:
                with self._turn.lent():
                    return any([_is_true(call(self, history)) for call in calls])

            history = History()
            try:
                training.train(self._executor, task, validation, history, after_epoch)
            finally:
                self._epochs += history.epochs
            return history

    # Its parameters.

    @property
    def n_parameters(self) -> int:
        """How many numbers the weights and biases are."""
        return sum(int(np.prod(shape)) for _, shape in self._network.parameters())

    def parameters(self) -> list[np.ndarray]:
        """Copies of the weights (O, I) and biases (O,), layer by layer, in the order of `state_dict`; read-only, since
        nothing that is written to them would reach the model. `update` and `load_state_dict` do."""
        copies = list(self.state_dict().values())
        for copy in copies:
            copy.flags.writeable = False
        return copies

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the parameters under the keys of torch.nn.Sequential(Linear, activation, Linear, ...): "0.weight"
        (O, I), "0.bias" (O,), "2.weight", ...; identity counts as a module, the output's activation never."""
        with self._turn:
            values = self._executor.read()
        return {name: values[name] for name, _ in self._network.parameters()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Overwrites all parameters: the keys and shapes of `state_dict`, as lists, or as arrays of any library in the
        processor's memory or on the model's device, converted to the model's dtype. Optimizers keep their state.
        TypeError or ValueError before anything is written, where names or shapes are wrong."""
        given = self._arrays("state_dict", state_dict)
        with self._turn:
            self._executor.write(given)
        self._handed_back(state_dict)

    # Looking at it.

    @property
    def backend(self) -> Backend:
        """What runs it: the object that fm.get_backend gives for its name, or the one that it was made with."""
        return self._backend

    def plan(self, batch_size: int) -> Plan:
        """The fusedmlp.backends.Plan with which `fit` trains batches of `batch_size` rows: the one given, or one that
        is chosen once and kept; `describe` prints the same.

        A model with the same sizes runs by it, for the same order of summation, if it is given it: MLP(..., plan=plan).
        The algorithms of cuBLASLt are in it too, as far as products on cuda are a library's; they belong to the version
        of cuBLAS and the kind of device, and to the batch size. repr(plan) is the Python that makes it again.

        TypeError or ValueError for what is no batch size.
        """
        rows = checks.whole("batch_size", batch_size, 1)
        with self._turn:
            return self._executor.plan(rows)

    def describe(self) -> str:
        """The layers, and how the backend runs them: with the plan that was given, or those chosen so far, one for each
        batch size. They are in words; the plan itself is `plan(batch_size)`, whose repr makes it again."""
        sizes, rules = self._network.sizes, self._network.activations
        lines = [repr(self), f"{self.n_parameters:,} parameters"]
        for layer, rule in enumerate(rules):
            lines.append(f"layer {layer}: {sizes[layer]} -> {sizes[layer + 1]}, {rule!r}")
        return "\n".join([*lines, self._executor.describe()])

    def __repr__(self) -> str:
        *hidden, output = (rule.name if not rule.parameters else repr(rule) for rule in self._network.activations)
        shown = hidden[0] if len(set(hidden)) == 1 else hidden
        activation = f", activation={shown!r}" if hidden else ""
        return (
            f"MLP({list(self._network.sizes)}{activation}, output={output!r}, dtype={self._dtype.name!r}, "
            f"backend={self._backend.name!r})"
        )

    # Within.

    def _giver(self, x: Any) -> Callable[[Any], Any]:
        """How results reach the caller: as arrays of x's library where x lies on the model's device, else of NumPy."""
        memory = self._backend.memory
        if type(x) is memory.plain:
            return memory.to_host
        there = arrays.is_array(x) and arrays.device_of(x) == memory.device
        return arrays.giver(x) if there else memory.to_host

    def _handed_back(self, given: Mapping[str, Any]) -> None:
        """The stream on which the caller goes on with these arrays waits until they were read; one speaks for all."""
        name, *_ = given
        self._backend.memory.hand_back(given[name])

    def _initial(self, init: Any) -> Mapping[str, np.ndarray]:
        if isinstance(init, str):
            return initializers.initial_parameters(self._network, init, self._seed)
        if not isinstance(init, Mapping):
            names = [name for name, _ in self._network.parameters()]
            given = list(init) if isinstance(init, Sequence) else None
            if given is None or len(given) != len(names):
                came = type(init).__name__ if given is None else f"{len(given)} arrays"
                raise ValueError(f"init: expected a name, or an array for each of {', '.join(names)}; got {came}")
            init = dict(zip(names, given, strict=True))
        return self._arrays("init", init)

    def _arrays(self, argument: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """A number array of the right shape for every parameter."""
        if not isinstance(given, Mapping):
            raise TypeError(f"{argument}: expected a mapping from names to arrays, got {type(given).__name__}")
        shapes = dict(self._network.parameters())
        if given.keys() != shapes.keys():
            hint = ""
            if len(given) == len(shapes):
                hint = f"; in the same order with other names: pass dict(zip(model.state_dict(), {argument}.values()))"
            raise ValueError(
                f"{argument}: expected the keys {', '.join(shapes)}; got {', '.join(map(str, given))}{hint}"
            )
        made = {name: data.numbers(f"{argument}[{name!r}]", given[name], self._backend.memory) for name in shapes}
        for name, array in made.items():
            if array.shape != shapes[name]:
                raise ValueError(f"{argument}[{name!r}]: expected shape {shapes[name]}, got {array.shape}")
        return made

    def _optimizer(self, optimizer: str | Hyperparameters) -> Hyperparameters:
        chosen = optimizers.get(optimizer)
        return self._named_optimizers.setdefault(optimizer, chosen) if isinstance(optimizer, str) else chosen

    def _validation(self, given: Any, loss: Loss, reduction: str) -> Validation | None:
        if given is None:
            return None
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValueError(f"validation_data: expected (x, y), got {type(given).__name__} of {_length(given)}")
        try:
            x, y = given
            held_out = data.prepare(self._network, self._dtype, loss, x, y, memory=self._backend.memory)
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation_data: {error}") from error
        return Validation(self._executor, held_out, loss, reduction)


def _sizes(sizes: Any) -> tuple[int, ...]:
    if isinstance(sizes, str) or not isinstance(sizes, Sequence | np.ndarray):
        raise TypeError(f"sizes: expected a list such as [784, 128, 10], got {type(sizes).__name__}")
    if len(sizes) < 2:
        raise ValueError(f"sizes: expected the inputs and the width of at least one layer, got {list(sizes)}")
    return tuple(checks.whole(f"sizes[{i}]", size, 1, MOST + 1) for i, size in enumerate(sizes))


def _hidden_activations(given: Any, layers: int) -> tuple[Activation, ...]:
    if isinstance(given, list | tuple):
        if len(given) != layers:
            raise ValueError(f"activation: expected one, or a list of {layers} for the hidden layers, got {len(given)}")
        return tuple(activations.get(one, f"activation[{i}]") for i, one in enumerate(given))
    return (activations.get(given),) * layers


def _is_true(returned: Any) -> bool:
    """Whether a callback returned True: Python's, or NumPy's, which a comparison of its numbers gives."""
    return isinstance(returned, bool | np.bool_) and bool(returned)


def _callbacks(callbacks: Any) -> tuple[Callback, ...]:
    try:
        calls = tuple(callbacks)
    except TypeError:
        raise TypeError(f"callbacks: expected a list of callables, got {type(callbacks).__name__}") from None
    for i, call in enumerate(calls):
        if not callable(call):
            raise TypeError(f"callbacks[{i}]: expected a callable, got {type(call).__name__}")
    return calls


def _length(given: Any) -> str:
    return f"length {len(given)}" if hasattr(given, "__len__") else "no length"
