"""`bertft finetune` and `bertft ablate`."""

from pathlib import Path
from typing import Annotated

import typer

from bertft.cli.printing import say, show_ablation, show_table, typed

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="depparse, mnli, squad or tagging.")]
Model = Annotated[str, typer.Argument(help="Folder or hub name (NAME@revision too).")]
Train = Annotated[str, typer.Option(help="Training file, or NAME:SPLIT on the hub (mnli, squad).")]
Dev = Annotated[list[str], typer.Option(help="The same, to score; repeat it for more sets.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="By default 10, 3, 2, 3 (the recipes).")]
Rate = Annotated[float | None, typer.Option(help="Of the encoder: 5e-5, 2e-5, 3e-5, 5e-5.")]
HeadRate = Annotated[float | None, typer.Option(help="Of the head: 1e-3 for depparse, else --lr.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="32, 32, 12, 32.")]
Accumulate = Annotated[int | None, typer.Option(min=1, help="Batches a step; 1.")]
MaxLength = Annotated[
    int | None, typer.Option(min=1, help="Tokens of an input: 512, 128, 384, 512.")
]
Stride = Annotated[int | None, typer.Option(min=0, help="Tokens two windows share (squad): 128.")]
WeightDecay = Annotated[float | None, typer.Option(help="Of matrices; 0.01.")]
Warmup = Annotated[float | None, typer.Option(help="Share of the steps, below 1; 0.1.")]
Clip = Annotated[float | None, typer.Option(help="Most that the gradient's norm may be; 1.")]
Patience = Annotated[
    int | None, typer.Option(min=1, help="Stop after so many epochs without gain; off by default.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Training examples to draw; all.")]
DevEvery = Annotated[int, typer.Option(min=1, help="Score every n-th example, from the first.")]
Dtype = Annotated[str | None, typer.Option(help="float32, or bfloat16 for autocast.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
NoPrefixCache = Annotated[
    bool, typer.Option("--no-prefix-cache", help="Run frozen blocks in every step, with dropout.")
]
CacheMemory = Annotated[float, typer.Option(min=0, help="GiB of memory for the frozen prefix.")]
CacheDisk = Annotated[float, typer.Option(min=0, help="GiB of disk for it, if it needs more.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out and count answers with bad offsets (squad).")
]


def finetune(
    task: TaskName,
    model: Model,
    train: Train,
    dev: Dev,
    out: Annotated[Path, typer.Option(help="Folder for model, scores and predictions.")],
    freeze: Annotated[int, typer.Option(min=0, help="Blocks to freeze, with embeddings.")] = 0,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Blocks to keep; the ones above are cut off.")
    ] = None,
    epochs: Epochs = None,
    lr: Rate = None,
    head_lr: HeadRate = None,
    batch_size: BatchSize = None,
    accumulate: Accumulate = None,
    max_length: MaxLength = None,
    doc_stride: Stride = None,
    weight_decay: WeightDecay = None,
    warmup: Warmup = None,
    clip: Clip = None,
    patience: Patience = None,
    limit: Limit = None,
    dev_every: DevEvery = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of head, order and dropout.")] = 0,
    dtype: Dtype = None,
    device: Device = "cpu",
    no_prefix_cache: NoPrefixCache = False,
    cache_memory: CacheMemory = 2.0,
    cache_disk: CacheDisk = 20.0,
    skip_bad: SkipBad = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last checkpoint; show a finished run."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in --out.")] = False,
) -> None:
    """Fine-tune a model on dependency parsing, MNLI, SQuAD or part-of-speech tagging.

    Where four defaults stand, they are those of depparse, mnli, squad and tagging.
    """
    from bertft.finetuning import finetune as run

    tuned = run(
        task,
        model,
        train,
        dev,
        out,
        freeze=freeze,
        keep=keep,
        epochs=epochs,
        lr=lr,
        head_lr=head_lr,
        batch_size=batch_size,
        accumulate=accumulate,
        max_length=max_length,
        doc_stride=doc_stride,
        weight_decay=weight_decay,
        warmup=warmup,
        clip=clip,
        patience=patience,
        limit=limit,
        dev_every=dev_every,
        seed=seed,
        dtype=dtype,
        device=device,
        prefix_cache=not no_prefix_cache,
        cache_memory_gib=cache_memory,
        cache_disk_gib=cache_disk,
        skip_bad=skip_bad,
        resume=resume,
        overwrite=overwrite,
        command=typed(),
        progress=True,
    )
    show_table(tuned.table[["corpus", "measure", "value", "n"]], f"{task}, {model}")
    say(f"model: {out}")
    say(tuned.headline)


def ablate(
    task: TaskName,
    model: Model,
    train: Train,
    dev: Dev,
    out: Annotated[Path, typer.Option(help="Folder of the grid; several runs may share it.")],
    freeze: Annotated[str, typer.Option(help="Numbers of blocks to freeze, as 0,2,4,6.")] = "",
    keep: Annotated[str, typer.Option(help="Numbers of blocks to keep, as 2,4,6.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every cell, from seed 0.")] = 1,
    epochs: Epochs = None,
    lr: Rate = None,
    head_lr: HeadRate = None,
    batch_size: BatchSize = None,
    accumulate: Accumulate = None,
    max_length: MaxLength = None,
    doc_stride: Stride = None,
    weight_decay: WeightDecay = None,
    warmup: Warmup = None,
    clip: Clip = None,
    patience: Patience = None,
    limit: Limit = None,
    dev_every: DevEvery = 1,
    dtype: Dtype = None,
    device: Device = "cpu",
    no_prefix_cache: NoPrefixCache = False,
    cache_memory: CacheMemory = 2.0,
    cache_disk: CacheDisk = 20.0,
    skip_bad: SkipBad = False,
    save_models: Annotated[
        bool, typer.Option("--save-models", help="Keep every cell's model, not its scores only.")
    ] = False,
) -> None:
    """Which layers did the task need? Freeze or cut off layers, over a grid that resumes.

    The full model is always in the grid. Cells that are done are not done again, and several
    processes may share --out.
    """
    from bertft.ablation import FailedCellsError
    from bertft.ablation import ablate as run

    try:
        ablation = run(
            task,
            model,
            train,
            dev,
            out,
            freeze=_numbers("freeze", freeze),
            keep=_numbers("keep", keep),
            seeds=seeds,
            epochs=epochs,
            lr=lr,
            head_lr=head_lr,
            batch_size=batch_size,
            accumulate=accumulate,
            max_length=max_length,
            doc_stride=doc_stride,
            weight_decay=weight_decay,
            warmup=warmup,
            clip=clip,
            patience=patience,
            limit=limit,
            dev_every=dev_every,
            dtype=dtype,
            device=device,
            prefix_cache=not no_prefix_cache,
            cache_memory_gib=cache_memory,
            cache_disk_gib=cache_disk,
            skip_bad=skip_bad,
            save_models=save_models,
            command=typed(),
            progress=True,
        )
    except FailedCellsError as error:
        show_ablation(error.ablation)
        raise
    show_ablation(ablation)


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(
            f"[ablate] {name} must be whole numbers joined by commas, got {text!r}; pass 0,2,4."
        ) from error
