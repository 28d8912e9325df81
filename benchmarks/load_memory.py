"""Measure the host memory that loading a published model takes, part by part, each in a process of its own.

    python benchmarks/load_memory.py MODEL_DIR [--transfer discard|cpu|cuda]

`discard` reads every weight as loading onto a GPU does and drops it instead of keeping it there; `cpu` keeps
the network in host memory; `cuda` is the real thing. The last line is JSON.
"""

# ruff: noqa: T201, a program that prints its results

import argparse
import json
import multiprocessing
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from livetalk.bench.host_memory import FIELDS, HostMemoryWatch
from livetalk.checkpoints.layouts import find_published
from livetalk.checkpoints.published import PART_NAMES, PartName, open_part
from livetalk.checkpoints.streaming_load import match_entries, stream_weights

TRANSFERS = ("discard", "cpu", "cuda")


def measure(model_dir: Path, part: PartName, transfer: str) -> dict[str, Any]:
    """Load one part and return what it took."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if transfer == "cuda" else "cpu")
    if transfer == "cuda":
        # The driver's own host memory is no cost of loading.
        torch.zeros(1, device=device)
    opened = open_part(part, find_published(model_dir))
    dtype = torch.float32 if part == "audio_encoder" else torch.bfloat16
    watch, started = HostMemoryWatch(), monotonic()
    if transfer == "discard":
        network = opened.build_empty()
        entries = match_entries(network, opened.adapter, opened.index)
        for _ in stream_weights(network, entries, device=device, dtype=dtype):
            pass
    else:
        opened.load(device=device, dtype=dtype)
    seconds = monotonic() - started
    rise = watch.finish()
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
    parser = argparse.ArgumentParser(description="Measure the host memory that loading takes.")
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--transfer", choices=TRANSFERS, default="discard")
    args = parser.parse_args()
    results = []
    context = multiprocessing.get_context("spawn")
    print("| part | files | in all | largest file | largest weight | resident | anonymous | mapped | s |")
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
