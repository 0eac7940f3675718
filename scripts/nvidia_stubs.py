"""Stand-ins for NVIDIA's libraries, so that a CUDA build of torch loads on a machine that has none
of them.

The loader refuses a library whose own needs are missing, even where they are never called. For each
missing NVIDIA library a small shared object of the same name is compiled that has every symbol
torch's libraries ask of it, under the same symbol version; each function answers "no such device".
It is put beside torch's libraries, where they look for it. Needs gcc and readelf.
"""

import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Part of every Linux system; and the GPU's driver: what needs it is loaded only on the first use of
# a GPU.
FROM_THE_SYSTEM = re.compile(r"(ld-linux|lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s|gomp|cuda)\.so)")
# Libraries whose symbols carry no version, known by the symbols' first letters.
BY_PREFIX = {"nccl": "libnccl.so.2", "cusparseLt": "libcusparseLt.so.0", "cuFile": "libcufile.so.0"}

NO_DEVICE = 100  # cudaErrorNoDevice
# What runs while torch is being imported, and must answer more than NO_DEVICE.
ANSWERS = {
    "cudaGetDeviceCount": f"int cudaGetDeviceCount(int *n) "
    f"{{ if (n) *n = 0; return {NO_DEVICE}; }}",
    "cudaDriverGetVersion": "int cudaDriverGetVersion(int *n) { if (n) *n = 0; return 0; }",
    "cudaRuntimeGetVersion": "int cudaRuntimeGetVersion(int *n) { if (n) *n = 13000; return 0; }",
    "cudaGetErrorName": 'const char *cudaGetErrorName(int code) { return "cudaErrorNoDevice"; }',
    "cudaGetErrorString": 'const char *cudaGetErrorString(int code) { return "no CUDA: this is '
    'a stub"; }',
    "cudaGetLastError": "int cudaGetLastError(void) { return 0; }",
    "cudaPeekAtLastError": "int cudaPeekAtLastError(void) { return 0; }",
    "__cudaInitModule": "char __cudaInitModule(void **handle) { return 0; }",
    "__cudaRegisterFatBinary": "void **__cudaRegisterFatBinary(void *b) { static void *h[4]; "
    "return h; }",
    "__cudaRegisterFatBinaryEnd": "void __cudaRegisterFatBinaryEnd(void **handle) {}",
    "__cudaRegisterFunction": "void __cudaRegisterFunction(void) {}",
    "__cudaRegisterVar": "void __cudaRegisterVar(void) {}",
    "__cudaUnregisterFatBinary": "void __cudaUnregisterFatBinary(void **handle) {}",
}


@dataclass
class Wanted:
    """What a set of libraries asks of others."""

    libraries: set[str] = field(default_factory=set)
    versioned: set[tuple[str, str, str]] = field(default_factory=set)  # library, version, symbol
    plain: set[str] = field(default_factory=set)
    defined: set[str] = field(default_factory=set)


def readelf(option: str, library: Path) -> list[str]:
    command = ["readelf", "--wide", option, str(library)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def version_owners(library: Path) -> dict[str, str]:
    """For each symbol version that a library needs, the file it is to come from."""
    owners, file = {}, ""
    for line in readelf("--version-info", library):
        if head := re.search(r"Version: 1\s+File: (\S+)", line):
            file = head[1]
        elif file and (entry := re.search(r"Name: (\S+)\s+Flags", line)):
            owners[entry[1]] = file
    return owners


def symbols(library: Path) -> Iterator[tuple[str, str, str, str]]:
    """Name, version (or nothing), binding and section of each dynamic symbol."""
    for line in readelf("--dyn-syms", library):
        columns = line.split()
        if len(columns) >= 8 and columns[0].endswith(":"):
            name, _, version = columns[7].partition("@")
            yield name, version.lstrip("@"), columns[4], columns[6]


def wanted_by(libraries: list[Path]) -> Wanted:
    wanted = Wanted()
    for library in libraries:
        wanted.libraries.update(
            re.findall(r"NEEDED\).*\[(.*)\]", "\n".join(readelf("--dynamic", library)))
        )
        owners = version_owners(library)
        for name, version, binding, section in symbols(library):
            if section != "UND":
                wanted.defined.add(name)
            elif version in owners:
                wanted.versioned.add((owners[version], version, name))
            elif binding == "GLOBAL":
                wanted.plain.add(name)
    return wanted


def stubs_for(wanted: Wanted, missing: set[str]) -> dict[str, dict[str, set[str]]]:
    """For each missing library, the symbols it must have by version ("" for those that carry
    none).
    """
    stubs: dict[str, dict[str, set[str]]] = {library: defaultdict(set) for library in missing}
    for library, version, name in wanted.versioned:
        if library in missing:
            stubs[library][version].add(name)
    for name in wanted.plain - wanted.defined:
        for prefix, library in BY_PREFIX.items():
            if library in missing and name.startswith(prefix):
                stubs[library][""].add(name)
    return stubs


def compile_stub(path: Path, versions: dict[str, set[str]]) -> None:
    """Compile one stub. Raises subprocess.CalledProcessError where gcc fails."""
    every = sorted(set().union(*versions.values()))
    source = "\n".join(
        ANSWERS.get(name, f"int {name}(void) {{ return {NO_DEVICE}; }}") for name in every
    )
    nodes = [
        f"{node} {{ global: {'; '.join(sorted(names))}; }};"
        for node, names in versions.items()
        if node
    ]
    with tempfile.TemporaryDirectory() as folder:
        code, script = Path(folder, "stub.c"), Path(folder, "versions")
        code.write_text(source + "\n")
        script.write_text("\n".join(nodes) + "\n")
        # -fno-builtin and -w: the signatures are not the real ones, and nobody minds.
        command = [
            "gcc",
            "-w",
            "-O1",
            "-fno-builtin",
            "-fPIC",
            "-shared",
            "-s",
            f"-Wl,-soname,{path.name}",
        ]
        command += [f"-Wl,--version-script={script}"] if nodes else []
        subprocess.run([*command, "-o", str(path), str(code)], check=True)


def write_stubs(folder: Path) -> list[str]:
    """Put a stub in the folder for each NVIDIA library that those in it need and lack; the stubs'
    names.
    """
    libraries = sorted(folder.glob("lib*.so*"))
    wanted = wanted_by(libraries)
    here = {library.name for library in libraries}
    missing = {name for name in wanted.libraries - here if not FROM_THE_SYSTEM.match(name)}
    for name, versions in stubs_for(wanted, missing).items():
        compile_stub(folder / name, versions)
    return sorted(missing)
