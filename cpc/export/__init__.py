"""Trained networks for other runtimes: ONNX and TorchScript."""

from typing import TYPE_CHECKING, Literal

from cpc.doors import lazily

if TYPE_CHECKING:
    from cpc.export.write import ExportError, export_run

Target = Literal["onnx", "torchscript"]

__all__ = ["ExportError", "Target", "export_run"]

# torch is imported only once something is exported.
__getattr__ = lazily(__name__, {"ExportError": "write", "export_run": "write"})
