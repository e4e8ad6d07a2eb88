"""A training set-up in the words of the loops that people have: plain PyTorch, Lightning, Accelerate."""

from __future__ import annotations

from hotlap.core import Json


def snippets(settings: Json) -> dict[str, str]:
    """Code by the loop's name: `pytorch`, `lightning`, `accelerate`. `settings` as settings.json holds them."""
    return {"pytorch": _pytorch(settings), "lightning": _lightning(settings), "accelerate": _accelerate(settings)}


def _pytorch(settings: Json) -> str:
    scaled, passes = settings["precision"] == "fp16", _passes(settings)
    dtype = {"bf16": "torch.bfloat16", "fp16": "torch.float16"}.get(settings["precision"])
    form = next((f", {name}=True" for name in ("fused", "foreach") if settings[name]), "")
    share = f" / {passes}" if passes > 1 else ""
    images = settings["layout"] == "channels_last"
    lines = [
        "model.to(memory_format=torch.channels_last)" if images else "",
        "model.compile()" if settings["compile"] else "",
        f"optimizer = torch.optim.AdamW(model.parameters(){form})  # or yours",
        _loader(settings),
        f'scaler = torch.amp.GradScaler("{settings["device"]}")' if scaled else "",
        "for step, (inputs, targets) in enumerate(loader, 1):",
        "    inputs = inputs.contiguous(memory_format=torch.channels_last)" if images else "",
        *(f"    {line}" for line in _trimming(settings)),
        f'    with torch.autocast("{settings["device"]}", dtype={dtype}, enabled={dtype is not None}):',
        f"        outputs = model({'**' if settings['trim'] else ''}inputs)",
        f"    loss = loss_function(outputs.float(), targets){share}",
        "    scaler.scale(loss).backward()" if scaled else "    loss.backward()",
        f"    if step % {passes} == 0:",
        "        scaler.step(optimizer)" if scaled else "        optimizer.step()",
        "        scaler.update()" if scaled else "",
        "        optimizer.zero_grad()",
    ]
    return _text(lines)


def _lightning(settings: Json) -> str:
    precision = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[settings["precision"]]
    layout = "module = module.to(memory_format=torch.channels_last)  # and each batch"
    lines = [
        f'trainer = lightning.Trainer(precision="{precision}", max_epochs={settings["epochs"]},',
        f"                            accumulate_grad_batches={_passes(settings)})",
        _loader(settings),
        layout if settings["layout"] == "channels_last" else "",
        "module = torch.compile(module)" if settings["compile"] else "",
        "# in configure_optimizers: fused=True" if settings["fused"] else "",
        "# in configure_optimizers: foreach=True" if settings["foreach"] else "",
        *(f"# in training_step: {line}" for line in _trimming(settings)),
        "trainer.fit(module, loader)",
    ]
    return _text(lines)


def _accelerate(settings: Json) -> str:
    precision = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[settings["precision"]]
    layout = "model = model.to(memory_format=torch.channels_last)  # and each batch"
    lines = [
        f'accelerator = accelerate.Accelerator(mixed_precision="{precision}", cpu={settings["device"] == "cpu"},',
        f"                                     gradient_accumulation_steps={_passes(settings)})",
        _loader(settings),
        layout if settings["layout"] == "channels_last" else "",
        "model = torch.compile(model)" if settings["compile"] else "",
        "# give the optimizer fused=True" if settings["fused"] else "",
        "# give the optimizer foreach=True" if settings["foreach"] else "",
        *(f"# in the loop: {line}" for line in _trimming(settings)),
        "model, optimizer, loader = accelerator.prepare(model, optimizer, loader)",
    ]
    return _text(lines)


def _trimming(settings: Json) -> list[str]:
    """Cutting off columns that are padding in every row, by the mask."""
    if not settings["trim"]:
        return []
    return [
        'length = int(inputs["attention_mask"].sum(1).max())',
        "inputs = {name: value[:, :length] for name, value in inputs.items()}",
    ]


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines if line)


def _passes(settings: Json) -> int:
    size = settings["micro_batch"] or settings["batch_size"]
    return int(max(settings["accumulation"], -(-settings["batch_size"] // size)))


def _loader(settings: Json) -> str:
    """A loader of shuffled batches; of whole ones, where the dataset is indexed with a list of indices."""
    size = min(settings["micro_batch"] or settings["batch_size"], settings["batch_size"])
    words = [] if settings["at_once"] else [f"batch_size={size}"]
    if settings["workers"]:
        words += [f"num_workers={settings['workers']}", f"prefetch_factor={settings['prefetch']}"]
    words += ["pin_memory=True"] if settings["pin"] else []
    words += [] if settings["at_once"] else ["shuffle=True"]
    if not settings["at_once"]:
        return f"loader = torch.utils.data.DataLoader(dataset, {', '.join(words)})"
    return (
        "from torch.utils.data import BatchSampler, DataLoader, RandomSampler\n"
        f"batches = BatchSampler(RandomSampler(dataset), {size}, drop_last=False)\n"
        f"loader = DataLoader(dataset, {', '.join(['sampler=batches, batch_size=None', *words])})"
    )
