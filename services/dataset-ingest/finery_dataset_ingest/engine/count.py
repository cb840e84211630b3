"""Counts tokens: ``python -m finery_dataset_ingest.engine.count JOB_DIR``, spec CountSpec (SPEC DS5).

By the model's own chat template and tokenizer, and by the code that training uses, so the figures are
those of training.
It refuses a model without a chat template where there are conversations, as training would.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from finery_contracts.errors import DataInvalid, InvalidRequest
from finery_contracts.jobs import Phase
from finery_contracts.preparing import CountOutput, CountSpec, TokenBucket
from finery_dataset_ingest.engine.tables import Source, open_source
from finery_dataset_ingest.engine.tokens import TokenCount, count_records
from finery_ml.conversation import check_template
from finery_ml.job import JobFolder, Terminated, run
from finery_ml.loading import load_tokenizer

_BATCH = 256
_PERCENTILES = (50, 90, 95, 99)
_SCHEMA = pa.schema(
    [
        pa.field("line", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("trained_tokens", pa.int64(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("refused", pa.string()),
    ]
)


def main(argv: list[str] | None = None) -> int:
    """Run one job folder; returns the exit status."""
    return run(count, argv)


def count(work: JobFolder) -> CountOutput:
    """Load the tokenizer, count batch by batch, write a row a record, sum up."""
    spec = work.job.spec
    if not isinstance(spec, CountSpec):
        raise InvalidRequest(f"This engine counts tokens; it cannot {spec.kind}.", code="wrong_engine", param="kind")
    source = open_source(Path(spec.dataset), number=0, dataset="")
    tokenizer = load_tokenizer(Path(spec.model))
    if source.holds != "text":
        check_template(tokenizer)
    work.progress(phase=Phase.RUNNING, total=source.records, message=f"counting {source.records} records")
    figures = _Figures()
    with pq.ParquetWriter(work.out / "tokens.parquet", _SCHEMA, compression="zstd") as writer:
        for counts in _counted(work, source, tokenizer, max_length=spec.max_length):
            writer.write_batch(_table_of(counts))
            figures.add(counts)
            work.progress(step=figures.records, total=source.records, metrics={"tokens": figures.whole})
    if figures.records == 0:
        raise DataInvalid("the dataset holds no records; add some.", code="dataset_empty")
    return figures.output(spec.max_length)


def _counted(
    work: JobFolder, source: Source, tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> Iterator[list[TokenCount]]:
    for batch in source.batches(_BATCH):
        if work.stop_requested.is_set():
            raise Terminated
        yield count_records(batch, tokenizer, max_length=max_length)


def _table_of(counts: list[TokenCount]) -> pa.RecordBatch:
    columns = {
        "line": [count.line for count in counts],
        "tokens": [count.whole for count in counts],
        "trained_tokens": [count.trained for count in counts],
        "truncated": [count.truncated for count in counts],
        "refused": [count.refused for count in counts],
    }
    return pa.RecordBatch.from_pydict(columns, schema=_SCHEMA)


@dataclass
class _Figures:
    """The sums; lengths are kept as how often each occurs, which is few numbers however many records there are."""

    records: int = 0
    whole: int = 0
    kept: int = 0
    trained: int = 0
    truncated: int = 0
    untrained: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    lengths: Counter[int] = field(default_factory=Counter[int])

    def add(self, counts: list[TokenCount]) -> None:
        for one in counts:
            self.records += 1
            if one.refused is not None:
                self.refused[one.refused.split(":")[0]] += 1
                continue
            self.whole += one.whole
            self.kept += one.kept
            self.trained += one.trained
            self.truncated += one.truncated
            self.untrained += one.trained == 0
            self.lengths[one.whole] += 1

    def output(self, max_length: int) -> CountOutput:
        counted = self.records - self.refused.total()
        return CountOutput(
            records=self.records,
            tokens=self.whole,
            tokens_per_epoch=self.kept,
            trained_tokens=self.trained,
            max_length=max_length,
            truncated_records=self.truncated,
            truncated_share=self.truncated / counted if counted else 0.0,
            lost_tokens=self.whole - self.kept,
            untrained_records=self.untrained,
            refused_records=self.refused.total(),
            longest=max(self.lengths, default=0),
            mean=self.whole / counted if counted else 0.0,
            percentiles=self._percentiles(),
            histogram=self._histogram(),
            warnings=self._warnings(max_length),
        )

    def _percentiles(self) -> dict[str, int]:
        """The least length that so many per cent of the records do not exceed."""
        if not self.lengths:
            return {}
        lengths = sorted(self.lengths)
        reached = np.cumsum([self.lengths[length] for length in lengths])
        places = np.searchsorted(reached, [np.ceil(reached[-1] * p / 100) for p in _PERCENTILES])
        return {f"p{p}": lengths[int(place)] for p, place in zip(_PERCENTILES, places, strict=True)}

    def _histogram(self) -> list[TokenBucket]:
        buckets = Counter[int]()
        for length, records in self.lengths.items():
            buckets[max(length - 1, 0).bit_length()] += records
        return [TokenBucket(up_to_tokens=2**bits, records=records) for bits, records in sorted(buckets.items())]

    def _warnings(self, max_length: int) -> list[str]:
        said = [f"{n} records are refused by the chat template: {code}." for code, n in sorted(self.refused.items())]
        if self.truncated:
            said.append(f"{self.truncated} records have more than {max_length} tokens; what is over is not trained on.")
        return said


if __name__ == "__main__":
    sys.exit(main())
