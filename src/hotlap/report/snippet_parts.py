"""Functions that snippets are made of, as text: each stands on its own where torch and pytree are imported."""

from __future__ import annotations

CALL = """\
def call(model, inputs):
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
"""

KEPT_MEMORY = """\
_c_library = ctypes.CDLL(None)  # glibc: what tensors free stays with the process, see mallopt(3)
_c_library.mallopt(-1, -1)  # M_TRIM_THRESHOLD
_c_library.mallopt(-4, 0)  # M_MMAP_MAX
"""

IN_FP32 = '''\
def in_fp32(outputs):
    """Outputs for the loss: tensors in half precision widened."""

    def widened(leaf):
        half = torch.is_tensor(leaf) and leaf.dtype in (torch.bfloat16, torch.float16)
        return leaf.float() if half else leaf

    return pytree.tree_map(widened, outputs)
'''

PLACED = '''\
def placed(values):
    """A batch with its {told}."""

    def moved(leaf):
        if not torch.is_tensor(leaf):
            return leaf
        {layout}return {there}

    return pytree.tree_map(moved, values)
'''
IMAGES = """\
if leaf.ndim == 4 and leaf.is_floating_point():
            leaf = leaf.contiguous(memory_format=torch.channels_last)
        """

PASSES = '''\
def passes(inputs, targets, size={size}):
    """Parts of a batch, each with its share of it: their gradients add up to those of the whole, the last one's too."""
    rows = len(pytree.tree_leaves(inputs)[0])
    for start in range(0, rows, size):
        part = pytree.tree_map(lambda leaf: leaf[start : start + size], (inputs, targets))
        yield *part, min(size, rows - start) / rows
'''

WEIGHTED_PASSES = '''\
def passes(inputs, targets, size={size}):
    """Parts of a batch, each with its share of it by `loss_weight`: their gradients add up to those of the whole."""
    rows, total = len(pytree.tree_leaves(inputs)[0]), float(loss_weight(targets))
    for start in range(0, rows, size):
        part = pytree.tree_map(lambda leaf: leaf[start : start + size], (inputs, targets))
        weight = float(loss_weight(part[1]))
        if weight:
            yield *part, weight / total
'''

BY_LENGTH = '''\
def by_length(inputs, targets, most={most}):
    """Parts of a batch, rows of like length together, each with its share of it: trimmed, little padding is left."""
    leaves = [leaf for leaf in pytree.tree_leaves((inputs, targets)) if leaf is not None]
    named = inputs.items() if isinstance(inputs, Mapping) else ()
    parts, total, cuts = [], 1.0, [()]
    dense = all(torch.is_tensor(leaf) and leaf.layout is torch.strided and not leaf.is_nested for leaf in leaves)
    if dense and all(leaf.ndim and len(leaf) == len(leaves[0]) for leaf in leaves):
        total, known = {total}, [leaf for leaf in pytree.tree_leaves(inputs) if leaf is not None]
        ids = [leaf for leaf in known if leaf.ndim == 2 and not leaf.is_floating_point()]
        masks = [leaf for name, leaf in named if "mask" in name and any(leaf is other for other in ids)]
        if len({{leaf.shape[1] for leaf in masks or ids}}) == 1 and not any((mask[:, 0] == 0).any() for mask in masks):
            filled = torch.stack([leaf != 0 for leaf in masks or ids]).any(0)
            columns = torch.arange(1, filled.shape[1] + 1, device=filled.device)
            lengths = (filled * columns).amax(1)
            beside = [leaf for leaf in (*ids, *pytree.tree_leaves(targets)) if torch.is_tensor(leaf)]
            beside = [leaf for leaf in beside if leaf.shape[:2] == filled.shape]
            beside = [leaf for leaf in beside if leaf.ndim > 2 or not leaf.is_floating_point()]
            beside = [leaf[columns > lengths[:, None]] for leaf in beside]
            longest, order = lengths.cpu().sort(stable=True)
            if len(order) > 3 and all((leaf == leaf.flatten()[:1]).all() for leaf in beside):
                cuts = groups(longest.tolist(), most)
    for rows in [order[slice(*cut)] for cut in cuts if len(cuts) > 1]:
        part = pytree.tree_map(lambda leaf: None if leaf is None else leaf[rows], (inputs, targets))
        parts.append((*part, {weight} / total))
    if not parts or abs(sum(share for *_, share in parts) - 1) > 1e-6:
        parts = [(inputs, targets, 1.0)]
    yield from (part for part in parts if part[2])
'''

IN_PASSES = '''\
def in_passes(inputs, targets):
    """Parts of a batch as `passes` gives them, each in parts by length."""
    for *part, share in passes(inputs, targets):
        for *rows, of_it in by_length(*part):
            yield *rows, share * of_it
'''

FAST_DROPOUT = '''\
_torchs_own = torch.library.get_kernel("aten::bernoulli_.float", "CPU")


def drawn(keys, tensor, p=0.5, *, generator=None):
    """Large masks by `draw`, small ones by torch."""
    if tensor.numel() < {least} or not 0 < p < 1 or tensor.is_complex():
        return _torchs_own.call_boxed(keys, tensor, p, generator=generator)
    return draw(tensor, p, generator)


_dropout_library = torch.library.Library("aten", "IMPL")
_dropout_library.impl("bernoulli_.float", drawn, "CPU", with_keyset=True)
'''

MATH_ATTENTION = """\
for _kind in ("flash", "mem_efficient", "cudnn"):  # scaled_dot_product_attention as plain products, on the CPU too
    getattr(torch.backends.cuda, f"enable_{_kind}_sdp")(False)
"""

TRIMMED = '''\
def trimmed(inputs, targets):
    """The batch without its last columns where they are padding in every row."""
    named = inputs.items() if isinstance(inputs, Mapping) else ()
    ids = [leaf for leaf in pytree.tree_leaves(inputs) if leaf.ndim == 2 and not leaf.is_floating_point()]
    masks = [leaf for name, leaf in named if "mask" in name and leaf.ndim == 2 and not leaf.is_floating_point()]
    widths = {{leaf.shape[1] for leaf in masks or ids}}
    if len(widths) != 1 or any((mask[:, 0] == 0).any() for mask in masks):
        return inputs, targets
    shape = len(ids[0]), widths.pop()
    filled = [(mask != 0).any(0) for mask in masks]
    filled += [(leaf != (leaf[0, -1] if masks else 0)).any(0) for leaf in ids if leaf.shape[1] == shape[1]]
    columns = torch.stack(filled).any(0).nonzero()
    used = max(int(columns[-1]) + 1 if len(columns) else 0, {least})

    def as_wide(leaf):
        return torch.is_tensor(leaf) and leaf.ndim >= 2 and tuple(leaf.shape[:2]) == shape

    def of_tokens(leaf):
        return as_wide(leaf) and not (leaf.ndim == 2 and leaf.is_floating_point())

    beside = [leaf[:, used:] for leaf in pytree.tree_leaves(targets) if of_tokens(leaf)]
    if used >= shape[1] or any((leaf != leaf.flatten()[0]).any() or leaf.flatten()[0] > 0 for leaf in beside):
        return inputs, targets
    return (
        pytree.tree_map(lambda leaf: leaf[:, :used] if as_wide(leaf) else leaf, inputs),
        pytree.tree_map(lambda leaf: leaf[:, :used] if of_tokens(leaf) else leaf, targets),
    )
'''

AT_ONCE = '''\
class AtOnce(Dataset):
    """A dataset that is indexed once for a whole batch."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitems__(self, indices):
        dataset = self.dataset
        while type(dataset) is Subset:
            dataset, indices = dataset.dataset, [dataset.indices[index] for index in indices]
        return dataset[numpy.array(indices)]
'''

RECOMPUTE = '''\
@contextmanager
def statistics_kept(layer):
    """The second forward pass of a batch must not count in the running statistics again."""
    norms = [one for one in layer.modules() if isinstance(one, torch.nn.modules.batchnorm._NormBase)]
    kept = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept):
            norm.load_state_dict(buffers, strict=False)


def items_of(name, module):
    """The items of a list by their names; for those that are lists themselves, their items."""
    for key, item in module.named_children():
        place = f"{name}.{key}" if name else key
        if isinstance(item, (torch.nn.ModuleList, torch.nn.ModuleDict)):
            yield from items_of(place, item)
        elif any(True for _ in item.parameters()) and any(True for _ in item.children()):
            yield place, item


def recompute(model):
    """Have each repeated layer's activations computed again in the backward pass, not kept."""
    found = {}
    for name, module in model.named_modules():
        inner = any(name == outer or name.startswith(f"{outer}.") for outer in found)
        if inner or not isinstance(module, (torch.nn.Sequential, torch.nn.ModuleList)):
            continue
        items = dict(items_of(name, module))
        kinds = [type(item) for item in items.values()]
        found |= {key: item for key, item in items.items() if kinds.count(type(item)) > 1}
    for layer in found.values():
        given = {}
        if any(isinstance(one, torch.nn.modules.batchnorm._NormBase) for one in layer.modules()):
            given = {"context_fn": partial(lambda layer: (nullcontext(), statistics_kept(layer)), layer)}
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, **given)
'''
