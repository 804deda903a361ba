"""What PyInstaller can't see by itself: the languages' modules, which are listed, and the libraries and the worker."""

from __future__ import annotations

from pathlib import Path

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, get_package_paths

__all__ = []

NATIVE = Path(get_package_paths("nif_lab")[1]) / "_native"

hiddenimports = collect_submodules("nif_lab", filter=lambda name: "_pyinstaller" not in name)
datas = collect_data_files("nif_lab", excludes=["_native/*.so", "_native/nif_worker"])
binaries = [(str(it), "nif_lab/_native") for it in NATIVE.iterdir() if it.suffix == ".so" or it.name == "nif_worker"]
