"""What the arena mounts and fills, made anew: the same names, sizes and shapes, other content.

A folder with data/dataset.json (50 items), data/static (20 files, text ones with .gz and .br
siblings) and certs/, and the table `items` of 100,000 rows. All but the certificate is drawn with
one seed: two runs make the same.
"""

import gzip
import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEED = 20260429
ROWS = 100_000
CATEGORIES = ("electronics", "office", "garden", "kitchen", "sport", "travel")
ADJECTIVES = ("Quiet", "Folding", "Bright", "Sturdy", "Pocket", "Double", "Woven", "Northern")
NOUNS = ("Lamp", "Kettle", "Ladder", "Bench", "Compass", "Satchel", "Hinge", "Trowel")
TAGS = ("sale", "new", "gift", "refurbished", "bulk", "seasonal", "handmade", "import")
# Sizes in KiB.
TEXT_FILES = {
    "reset.css": 8, "layout.css": 25, "theme.css": 18, "components.css": 200, "utilities.css": 60,
    "analytics.js": 12, "helpers.js": 22, "app.js": 200, "vendor.js": 300, "router.js": 35,
    "header.html": 120, "footer.html": 55, "logo.svg": 15, "icon-sprite.svg": 70,
    "manifest.json": 3,
}
BINARY_FILES = {
    "regular.woff2": 18, "bold.woff2": 22, "hero.webp": 45, "thumb1.webp": 8, "thumb2.webp": 6}
STATIC_FILES = (*TEXT_FILES, *BINARY_FILES)
COLUMNS = ("id", "name", "category", "price", "quantity", "active", "tags", "rating_score",
           "rating_count")
TABLE = """
    CREATE TABLE items (
        id integer PRIMARY KEY, name text NOT NULL, category text NOT NULL,
        price integer NOT NULL, quantity integer NOT NULL, active boolean NOT NULL,
        tags jsonb NOT NULL, rating_score integer NOT NULL, rating_count integer NOT NULL)
"""


def rows(count: int = ROWS) -> Iterator[tuple[Any, ...]]:
    """The rows of the table, in the order of COLUMNS."""
    dice = random.Random(SEED)
    for number in range(1, count + 1):
        yield _row(dice, number)


def _row(dice: random.Random, number: int) -> tuple[Any, ...]:
    name = f"{dice.choice(ADJECTIVES)} {dice.choice(NOUNS)}"
    tags = dice.sample(TAGS, dice.randint(1, 4))
    return (number, f"{name} {number}", dice.choice(CATEGORIES), dice.randint(1, 500),
            dice.randint(1, 1000), dice.random() < 0.5, json.dumps(tags), dice.randint(1, 50),
            dice.randint(1, 500))


def dataset() -> list[dict[str, Any]]:
    """The 50 items of dataset.json."""
    dice = random.Random(SEED + 1)
    items = []
    for number in range(1, 51):
        id, name, category, price, quantity, active, tags, score, count = _row(dice, number)
        items.append({
            "id": id, "name": name.rpartition(" ")[0], "category": category, "price": price,
            "quantity": quantity % 100 + 1, "active": active, "tags": json.loads(tags),
            "rating": {"score": score, "count": count}})
    return items


def write(folder: Path, brotli_quality: int = 11) -> None:
    """Write data/ and certs/ into `folder`.

    brotli_quality:  of the .br siblings; the arena's is 11, which takes some seconds
    """
    static = folder / "data" / "static"
    static.mkdir(parents=True, exist_ok=True)
    (folder / "data" / "dataset.json").write_text(json.dumps(dataset(), indent=2))
    _write_static(static, brotli_quality)
    _write_certificate(folder / "certs")


def _write_static(folder: Path, brotli_quality: int) -> None:
    import brotli

    dice = random.Random(SEED + 2)
    for name, size in TEXT_FILES.items():
        content = _text(dice, name, size * 1024)
        (folder / name).write_bytes(content)
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
        (folder / f"{name}.br").write_bytes(brotli.compress(content, quality=brotli_quality))
    for name, size in BINARY_FILES.items():
        (folder / name).write_bytes(dice.randbytes(size * 1024))


def _text(dice: random.Random, name: str, size: int) -> bytes:
    # Words that come again and again between some that never do: a quarter is left by brotli.
    words = ["".join(dice.choices(string.ascii_lowercase, k=dice.randint(3, 9)))
             for _ in range(400)]
    if name.endswith(".json"):
        entries = {f"{dice.choice(words)}-{number}": dice.choice(words) for number in range(300)}
        return json.dumps(entries, indent=1).encode()[:size - 3].rpartition(b",")[0] + b"\n}\n"
    lines = []
    length = 0
    while length < size:
        line = " ".join([*dice.choices(words, k=6), f"{dice.getrandbits(64):x}"])
        lines.append(line)
        length += len(line) + 1
    return "\n".join(lines).encode()[:size]


def _write_certificate(folder: Path) -> None:
    import trustme

    folder.mkdir(exist_ok=True)
    made = trustme.CA().issue_cert("localhost", "127.0.0.1")
    made.private_key_pem.write_to_path(str(folder / "server.key"))
    chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
    (folder / "server.crt").write_bytes(chain)


async def fill(url: str, count: int = ROWS) -> None:
    """Make and fill the table where it is missing; one that is there is left as it is.

    Raises what asyncpg raises where the database cannot be reached or does not allow it.
    """
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        if await connection.fetchval("SELECT to_regclass('items')") is None:
            async with connection.transaction():
                await connection.execute(TABLE)
                await connection.copy_records_to_table(
                    "items", records=rows(count), columns=COLUMNS)
            await connection.execute("VACUUM ANALYZE items")
    finally:
        await connection.close()
