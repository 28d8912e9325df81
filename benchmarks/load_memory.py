"""Measure the host memory that loading a published model needs, each part in a new process.

    python benchmarks/load_memory.py MODEL_DIR [--transfer discard|cpu|cuda]

`discard` reads every weight as loading to a GPU does and then drops it; `cpu` keeps the network in host
memory; `cuda` loads it to the GPU. The last line of output is JSON.
"""

# ruff: noqa: T201, a program that prints its results

import argparse
import json
import multiprocessing
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from livetalk.bench.host_memory import FIELDS, HostMemoryMonitor
from livetalk.checkpoints.layouts import find_published
from livetalk.checkpoints.published import PART_NAMES, PartName, open_part
from livetalk.checkpoints.streaming_load import match_entries, stream_weights

TRANSFERS = ("discard", "cpu", "cuda")


def measure(model_dir: Path, part: PartName, transfer: str) -> dict[str, Any]:
    """Load one part and return its sizes, the time in seconds and the rise of host memory in bytes."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if transfer == "cuda" else "cpu")
    if transfer == "cuda":
        # Creates the CUDA context now, so that its host memory does not count as loading.
        torch.zeros(1, device=device)
    opened = open_part(part, find_published(model_dir))
    dtype = torch.float32 if part == "audio_encoder" else torch.bfloat16
    monitor, started = HostMemoryMonitor(), monotonic()
    if transfer == "discard":
        network = opened.build_empty()
        entries = match_entries(network, opened.adapter, opened.index)
        for _ in stream_weights(network, entries, device=device, dtype=dtype):
            pass
    else:
        opened.load(device=device, dtype=dtype)
    seconds = monotonic() - started
    rise = monitor.finish()
    sizes = {entry.file: entry.file.stat().st_size for entry in opened.index.entries.values()}
    return {
        "part": part,
        "files": len(sizes),
        "total_bytes": sum(sizes.values()),
        "largest_file_bytes": max(sizes.values()),
        "largest_weight_bytes": max(entry.num_bytes for entry in opened.index.entries.values()),
        "seconds": seconds,
        "rise_bytes": rise,
    }


def main() -> None:
    """Measure every part and print a table."""
    parser = argparse.ArgumentParser(description="Measure the host memory of loading a published model.")
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--transfer", choices=TRANSFERS, default="discard")
    args = parser.parse_args()
    results = []
    context = multiprocessing.get_context("spawn")
    print("| part | files | total | largest file | largest weight | resident | anonymous | mapped | s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for part in PART_NAMES:
        with context.Pool(1) as pool:
            result = pool.apply(measure, (args.model_dir, part, args.transfer))
        results.append(result)
        sizes = [result[key] for key in ("total_bytes", "largest_file_bytes", "largest_weight_bytes")]
        cells = [
            f"{size / 1e9:.2f} GB" for size in (*sizes, *(result["rise_bytes"][name] for name in FIELDS))
        ]
        print(f"| {part} | {result['files']} | {' | '.join(cells)} | {result['seconds']:.1f} |", flush=True)
    print(json.dumps({"transfer": args.transfer, "parts": results}))


if __name__ == "__main__":
    main()
