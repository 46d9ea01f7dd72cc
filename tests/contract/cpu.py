"""What SGLang lacks on a machine without a GPU: substitutes, installed before SGLang is imported.

Nothing here computes: a kernel that is called raises, so a wrong answer is impossible. SGLang starts its processes by
importing the main module again, so this is imported by `launch.py` and takes effect in each of them."""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def declare_torchvision() -> None:
    """torchvision's wheel is built for CUDA, and its library does not load here: declare the two operators it looks for."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                     "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):  # fmt: skip
        library.define(operator)
    globals()["_library"] = library  # its declarations live as long as it does


class Kernels(types.ModuleType):
    """The CUDA extension `sgl_kernel`: its names can be imported, and raise when they are called."""

    __path__: list[str] = []  # noqa: RUF012  # a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> None:
            raise NotImplementedError(f"sgl_kernel.{name} needs a GPU")

        return missing


class Triton(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The compiler `triton` (a gigabyte) as the stub that SGLang itself uses where there is none."""

    def __init__(self, stubs: Any) -> None:
        self._stubs = stubs

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        ours = name == "triton" or name.startswith("triton.")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if ours else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return self._stubs._MockModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def stub_triton() -> None:
    if importlib.util.find_spec("triton") is not None:
        return
    sglang = importlib.util.find_spec("sglang")
    assert sglang
    assert sglang.origin
    spec = importlib.util.spec_from_file_location("_stubs", Path(sglang.origin).parent / "_platform_stubs.py")
    assert spec
    assert spec.loader
    stubs = importlib.util.module_from_spec(spec)
    sys.modules["_stubs"] = stubs
    spec.loader.exec_module(stubs)
    stubs._StubBase.__init__ = lambda *_, **__: None
    sys.meta_path.insert(0, Triton(stubs))
    import triton

    triton.__version__ = "3.9.0"


def stub_kernels() -> None:
    module = Kernels("sgl_kernel")
    module.__spec__ = importlib.machinery.ModuleSpec("sgl_kernel", None, is_package=True)
    sys.modules["sgl_kernel"] = module


declare_torchvision()
stub_triton()
stub_kernels()
