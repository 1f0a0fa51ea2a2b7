"""A TensorRT 8.5 that is not there: the module `tensorrt` for scripts of the tests, under any Python from 3.8 on.

It has the names that the Python package of 8.5.3 has and no others, and refuses unknown attributes as that does. Its
parser reads, beside the ONNX file, the layers that a test wrote as `<file>.layers.json`: {"inputs", "outputs" (name,
dtype, dims), "layers" (name, type, inputs, outputs, dtypes)}. A layer that is not pinned is built in half precision
where that is allowed, and so is one named by DEAF in the environment, which hears no pinning. The engine is JSON that
says all it was built with. With HIDE in the environment its inspector shows one layer that tells nothing, as 8.5 does
of transformers.
"""

import ctypes
import json
import os
from pathlib import Path

__version__ = "8.5.3.1"


class _Enum:
    """A member of one of pybind11's enumerations."""

    def __init__(self, kind, name, value):
        self.kind, self.name, self.value = kind, name, value

    def __int__(self):
        return self.value

    def __str__(self):
        return f"{self.kind}.{self.name}"


def _enum(kind, names):
    return type(kind, (), {name: _Enum(kind, name, value) for value, name in enumerate(names.split())})


DataType = _enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8")
float32, float16, int8, int32, bool = DataType.FLOAT, DataType.HALF, DataType.INT8, DataType.INT32, DataType.BOOL
BuilderFlag = _enum(
    "BuilderFlag",
    "FP16 INT8 DEBUG GPU_FALLBACK STRICT_TYPES REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE "
    "OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS DIRECT_IO REJECT_EMPTY_ALGORITHMS ENABLE_TACTIC_HEURISTIC",
)
LayerType = _enum(
    "LayerType",
    "CONVOLUTION ACTIVATION SOFTMAX CONCATENATION ELEMENTWISE PLUGIN UNARY SHUFFLE REDUCE GATHER MATRIX_MULTIPLY "
    "CONSTANT IDENTITY PLUGIN_V2 SLICE SHAPE SELECT FILL EINSUM DECONVOLUTION",
)
NetworkDefinitionCreationFlag = _enum("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH EXPLICIT_PRECISION")
MemoryPoolType = _enum("MemoryPoolType", "WORKSPACE DLA_MANAGED_SRAM DLA_LOCAL_DRAM DLA_GLOBAL_DRAM")
TacticSource = _enum("TacticSource", "CUBLAS CUBLAS_LT CUDNN EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS")
ProfilingVerbosity = _enum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED")
LayerInformationFormat = _enum("LayerInformationFormat", "ONELINE JSON")
TensorIOMode = _enum("TensorIOMode", "NONE INPUT OUTPUT")
_DTYPES = {"float32": float32, "float16": float16, "int32": int32, "bool": bool}
_SIZES = {"FLOAT": 4, "HALF": 2, "INT32": 4}


class _Strict:
    """Takes the attributes that its class names, as pybind11's classes do."""

    may_set = ()

    def __setattr__(self, name, value):
        if not name.startswith("_") and name not in self.may_set:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        object.__setattr__(self, name, value)


class ILogger(_Strict):
    Severity = _enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")
    may_set = ("errors", "layers")

    def __init__(self):
        pass


class _Tensor(_Strict):
    def __init__(self, name):
        self._name = name

    name = property(lambda self: self._name)


class _Layer(_Strict):
    may_set = ("precision",)

    def __init__(self, held):
        self._held, self._pinned, self._types = held, None, {}

    name = property(lambda self: self._held["name"])
    type = property(lambda self: getattr(LayerType, self._held["type"]))
    num_inputs = property(lambda self: len(self._held["inputs"]))
    num_outputs = property(lambda self: len(self._held["outputs"]))
    precision_is_set = property(lambda self: self._pinned is not None)

    @property
    def precision(self):
        return self._pinned or float32

    @precision.setter
    def precision(self, value):
        if self.name not in os.environ.get("DEAF", "").split(","):
            self._pinned = value

    def get_input(self, index):
        # An optional one that is not there.
        return _Tensor(self._held["inputs"][index]) if self._held["inputs"][index] else None

    def get_output(self, index):
        return _Tensor(self._held["outputs"][index])

    def set_output_type(self, index, dtype):
        assert self.get_output_type(index) in (float32, float16), f"the type of {self.name} cannot be set"
        self._types[index] = dtype

    def output_type_is_set(self, index):
        return index in self._types

    def get_output_type(self, index):
        # As 8.5 answers: of what nobody said, float32, unless it can only be integers or truth values.
        inherent = _DTYPES[self._held["dtypes"][index]]
        return self._types.get(index, inherent if inherent in (int32, bool) else float32)


class _Network(_Strict):
    def __init__(self, flags):
        assert flags == 1 << int(NetworkDefinitionCreationFlag.EXPLICIT_BATCH), "an implicit batch, or unknown flags"
        self._graph, self._layers = {"inputs": [], "outputs": []}, []

    num_layers = property(lambda self: len(self._layers))
    num_inputs = property(lambda self: len(self._graph["inputs"]))

    def get_layer(self, index):
        return self._layers[index]

    def get_input(self, index):
        return _Tensor(self._graph["inputs"][index]["name"])


class ParserError:
    def desc(self):
        return "Plugin not found, are the plugin name, version, and namespace correct?"

    def node(self):
        return 3


class OnnxParser(_Strict):
    def __init__(self, network, logger):
        self._network = network
        self._errors = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index):
        return self._errors[index]

    def parse_from_file(self, path):
        graph = json.loads(Path(path + ".layers.json").read_text())
        registered = [creator.name for creator in get_plugin_registry().plugin_creator_list]
        for layer in graph["layers"]:
            if layer["type"] == "PLUGIN_V2" and layer["plugin"] not in registered:
                self._errors.append(ParserError())
                return False
        assert all(port["dtype"] in _DTYPES for kind in ("inputs", "outputs") for port in graph[kind]), (
            "ports of 64 bits"
        )
        self._network._graph, self._network._layers = graph, [_Layer(layer) for layer in graph["layers"]]
        return True


class _Profile(_Strict):
    def __init__(self):
        self._shapes = {}

    def set_shape(self, name, lowest, usual, highest):
        self._shapes[name] = [list(lowest), list(usual), list(highest)]


class _TimingCache(_Strict):
    def serialize(self):
        return bytearray(b"timed")


class _Config(_Strict):
    may_set = ("profiling_verbosity",)

    def __init__(self):
        self._profiles, self._flags, self._pools, self._cache = [], ["TF32"], {}, None
        self._sources = (1 << 5) - 1

    def add_optimization_profile(self, profile):
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def set_flag(self, flag):
        self._flags.append(flag.name)

    def clear_flag(self, flag):
        self._flags.remove(flag.name)

    def set_memory_pool_limit(self, pool, size):
        self._pools[pool.name] = size

    def get_tactic_sources(self):
        return self._sources

    def set_tactic_sources(self, sources):
        self._sources = sources
        return True

    def create_timing_cache(self, data):
        return _TimingCache()

    def set_timing_cache(self, cache, ignore_mismatch):
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class Builder(_Strict):
    def __init__(self, logger):
        assert isinstance(logger, ILogger)

    def create_network(self, flags=0):
        return _Network(flags)

    def create_builder_config(self):
        return _Config()

    def create_optimization_profile(self):
        return _Profile()

    def build_serialized_network(self, network, config):
        assert not config._sources & 0b111, "cuBLAS and cuDNN are not installed"
        layers = []
        for layer in network._layers:
            assert layer._pinned in (None, float32) or "FP16" in config._flags, "half precision is not allowed"
            free = float16 if "FP16" in config._flags else float32
            computed = layer._pinned if layer._pinned and "OBEY_PRECISION_CONSTRAINTS" in config._flags else free
            layers.append(dict(layer._held, computed=computed.name))
        plan = {
            "layers": layers,
            "profiles": config._profiles,
            "flags": config._flags,
            "pools": config._pools,
            "sources": [name for name in vars(TacticSource) if name.isupper() and config._sources >> _bit(name) & 1],
            "verbosity": config.profiling_verbosity.name,
            "ports": {kind: network._graph[kind] for kind in ("inputs", "outputs")},
        }
        return bytearray(json.dumps(plan).encode())


def _bit(name):
    return int(getattr(TacticSource, name))


class _Inspector(_Strict):
    may_set = ("execution_context",)

    def __init__(self, plan):
        self._plan = plan

    def get_engine_information(self, form):
        assert form is LayerInformationFormat.JSON and self._plan["verbosity"] == "DETAILED"
        layers = [layer for layer in self._plan["layers"] if layer["type"] not in ("CONSTANT", "SHAPE")]
        if os.environ.get("HIDE"):
            name = f"{{ForeignNode[{layers[0]['name']}...{layers[-1]['name']}]}}"
            ports = self._plan["ports"]
            shown = [
                {"Name": name, "LayerType": "Myelin", **{kind.title(): self._ports(ports[kind]) for kind in ports}}
            ]
        else:
            shown = [self._shown(layer) for layer in layers]
        return json.dumps({"Layers": shown})

    def _ports(self, ports):
        kinds = {"float16": "FP16", "float32": "FP32", "int32": "INT32"}
        return [
            {"Name": p["name"], "Dimensions": p["dims"], "Format/Datatype": "Row major linear " + kinds[p["dtype"]]}
            for p in ports
        ]

    def _shown(self, layer):
        half = layer["computed"] == "HALF"
        kinds = {
            "float16": "FP16 format",
            "float32": "FP16 format" if half else "FP32",
            "int32": "INT32",
            "bool": "BOOL",
        }
        parts = {
            kind: [
                {"Name": name, "Dimensions": [], "Format/Datatype": "Row major linear " + kinds[dtype]}
                for name, dtype in zip(layer[kind.lower()], layer["dtypes" if kind == "Outputs" else "read"])  # noqa: B905
            ]
            for kind in ("Inputs", "Outputs")
        }
        shown = {"Name": layer["name"], "LayerType": layer["type"].title().replace("_", ""), **parts}
        if layer.get("weights"):
            shown["Weights"] = {"Type": "Half" if half else "Float", "Count": layer["weights"]}
        return shown


class _Engine(_Strict):
    num_optimization_profiles = property(lambda self: len(self._plan["profiles"]))
    num_io_tensors = property(lambda self: len(self._names))
    device_memory_size = 4096

    def __init__(self, plan):
        self._plan = plan
        self._ports = {port["name"]: port for kind in ("inputs", "outputs") for port in plan["ports"][kind]}
        self._names = list(self._ports)

    def get_tensor_name(self, index):
        return self._names[index]

    def get_tensor_dtype(self, name):
        return _DTYPES[self._ports[name]["dtype"]]

    def get_tensor_shape(self, name):
        return tuple(dim if isinstance(dim, int) else -1 for dim in self._ports[name]["dims"])

    def get_tensor_mode(self, name):
        inputs = [port["name"] for port in self._plan["ports"]["inputs"]]
        return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

    def get_tensor_profile_shape(self, name, profile_index):
        return [tuple(shape) for shape in self._plan["profiles"][profile_index][name]]

    def create_execution_context(self):
        return _Context(self)

    create_execution_context_without_device_memory = create_execution_context

    def create_engine_inspector(self):
        return _Inspector(self._plan)


class _Context(_Strict):
    may_set = ("device_memory",)

    def __init__(self, engine):
        self._engine, self._shapes, self._addresses, self._profile = engine, {}, {}, 0

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self._profile = profile_index
        return True

    def set_input_shape(self, name, shape):
        lowest, _, highest = self._engine.get_tensor_profile_shape(name, self._profile)
        self._shapes[name] = tuple(shape)
        return all(a <= size <= b for a, size, b in zip(lowest, shape, highest))  # noqa: B905

    def get_tensor_shape(self, name):
        ports = self._engine._plan["ports"]["inputs"]
        pairs = [pair for port in ports for pair in zip(port["dims"], self._shapes[port["name"]])]  # noqa: B905
        sizes = {dim: size for dim, size in pairs if isinstance(dim, str)}
        dims = self._engine._ports[name]["dims"]
        terms = [[dim] if isinstance(dim, int) or dim in sizes else dim.split(" + ") for dim in dims]
        return tuple(sum(sizes.get(term, term) for term in part) for part in terms)

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return memory != 0

    def execute_async_v3(self, stream_handle):
        assert set(self._addresses) == set(self._engine._names)
        for name in self._engine._names:
            size = _SIZES[self._engine.get_tensor_dtype(name).name]
            for length in self.get_tensor_shape(name):
                size *= length
            if name in self._shapes:
                ctypes.string_at(self._addresses[name], size)
            else:
                ctypes.memset(self._addresses[name], 1, size)
        return True


class Runtime(_Strict):
    def __init__(self, logger):
        assert isinstance(logger, ILogger)

    def deserialize_cuda_engine(self, serialized_engine):
        return _Engine(json.loads(bytes(serialized_engine)))


class _Creator:
    name = "VisualMemoryFFN"


class _Registry(_Strict):
    plugin_creator_list = [_Creator] if os.environ.get("REGISTERED") else []


_REGISTRY = _Registry()


def get_plugin_registry():
    return _REGISTRY
