"""What benchmarks/features.py and benchmarks/features_online.py found, as tables."""

from __future__ import annotations

from wording import Json, machine_words, milliseconds, table

STORE_NAMES = {
    "embedded": "hotlap's own, Feast on its SQLite",
    "sqlite": "SQLite",
    "redis": "Redis",
    "postgres": "PostgreSQL",
}


def offline_words(found: Json) -> list[str]:
    """What benchmarks/features.py found: a point-in-time join beside others' on the same files, and larger ones."""
    rows = [
        [
            name,
            milliseconds(1000 * one["median_seconds"]),
            f"{one['times_hotlap']:.2f}",
            f"{one['lost']:,}",
            f"{one['wrong']:,}",
        ]
        for name, one in found["sides"].items()
    ]
    head = ["join", "ms", "times hotlap's", "rows lost", "wrong values"]
    parts = [
        f"{found['feature_rows']:,} feature rows of {found['entities']:,} entities, {found['entity_rows']:,} entity "
        f"rows, from one Parquet file, {found['rounds']} rounds in turn."
        + (" Taken at idle priority beside other work: the times are an indication." if found["idle_priority"] else ""),
        table(head, rows),
    ]
    curve = [
        [
            f"{one['feature_rows']:,}",
            f"{one['entity_rows']:,}",
            f"{one['seconds']:.1f}",
            f"{one['peak_memory_bytes'] / 2**30:.2f}",
        ]
        for one in found["large"]
    ]
    if curve:
        parts.append(table(["feature rows", "entity rows", "seconds", "peak memory, GiB"], curve))
    disturbed = [f"{one['feature_rows']:,}" for one in found["large"] if one.get("disturbed")]
    if disturbed:
        parts.append(f"Other work ran beside the joins of {', '.join(disturbed)} rows, so that they may read too slow.")
    return [*parts, f"{_circumstances(found)}."]


def _circumstances(found: Json) -> str:
    versions = ", ".join(f"{name} {one}" for name, one in found["versions"].items())
    return f"{machine_words(found['machine'])}. {versions}. `{found['command']}`, commit {found['commit'][:12]}"


def readme_features(offline: Json, online: Json) -> str:
    """The README's lines."""
    feast, pandas = offline["sides"]["feast file store"], offline["sides"]["pandas merge_asof"]
    own = online["stores"]["embedded"]
    speedups = ", ".join(f"{row['times_hotlap']:.1f}x" for row in own)
    keys = ", ".join(f"{row['keys']:,}" for row in own)
    return (
        f"- A point-in-time join of {offline['feature_rows']:,} feature rows: **{feast['times_hotlap']:.0f}x** Feast's "
        f"file store, which loses {feast['lost']:,} of {offline['entity_rows']:,} rows where hotlap loses "
        f"{offline['sides']['hotlap']['lost']:,}; {pandas['times_hotlap']:.1f}x pandas.\n"
        f"- {online['configuration']['features']} features online of {keys} keys, from hotlap's own store: {speedups} "
        "Feast's from its SQLite."
    )


def online_table(found: Json) -> str:
    """What benchmarks/features_online.py found: reads of many keys, in turn with Feast's."""
    head = (
        *("store", "keys", "hotlap p50, ms", "p99, ms", "Feast p50, ms", "p99, ms", "Feast's time over hotlap's"),
        "Feast's response over hotlap's table",
    )
    rows = [
        (
            STORE_NAMES[store],
            f"{row['keys']:,}",
            *(f"{row[side][of]:.3g}" for side in ("hotlap", "feast") for of in ("p50_ms", "p99_ms")),
            f"**{row['times_hotlap']:.1f}x**",
            f"{row['response_over_table']:.1f}x",
        )
        for store, measured in found["stores"].items()
        for row in measured
    ]
    return table(head, rows)


def online_words(found: Json) -> list[str]:
    about = found["configuration"]
    loaded = "" if found["quiet"] else " Other work ran beside it, so that these figures are an indication only."
    return [
        f"{about['features']} features of {about['views']} views of one entity, {about['entities']:,} keys held, "
        f"{about['calls']} calls of each side in turn; servers on loopback. A call ends with a dict of Python values; "
        "in the last column hotlap's with an Arrow table, Feast's with its response, before that is made a dict.",
        f"{_circumstances(found)}, {found['when'][:10]}.{loaded}",
    ]
