"""The parts of Transformers' continuous batching, put together so that each request has its say in each step.

`ContinuousBatchingManager` runs a loop of its own, which samples all requests alike. Here its scheduler, its paged
cache and its inputs are driven from outside instead: a step gives logits, and the caller chooses the tokens.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.continuous_api import (
    BackgroundThreadStatus,
    ContinuousBatchProcessor,
    OutputRouter,
)
from transformers.generation.continuous_batching.distributed import DistributedHelper
from transformers.generation.continuous_batching.initialization import (
    resolve_continuous_batching_config,
    update_cb_config_after_cache_creation,
)
from transformers.generation.continuous_batching.model_runner import ModelRunner, infer_max_single_request_tokens
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState, RequestStatus
from transformers.generation.continuous_batching.scheduler import FIFOScheduler
from transformers.generation.continuous_batching.utils import stream_context

__all__ = ["Paged", "PagedSizes", "Row"]

_SALTED = 4
"""First tokens of a prompt that a salt changes; a page has no fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedSizes:
    """How large things are.

    Args:
        most: sequences computed together.
        max_batch_tokens: tokens computed in one step.
        page_size: tokens of a page.
        pages: of the whole cache; None: as many as a share of the device's free memory holds.
        memory_fraction: that share.
        shares_prefixes: what was read of prompts is kept for others.
        cuda_graphs: None: as Transformers thinks best.
    """

    most: int
    max_batch_tokens: int
    page_size: int
    pages: int | None
    memory_fraction: float
    shares_prefixes: bool = True
    cuda_graphs: bool | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What a step has computed of one request.

    Args:
        start: index of the first token that was computed.
        count: tokens that were computed.
        first: the row of logits of the first of these, if all of them have one; else -1.
        last: the row of logits after the last token, if the next one is to be chosen; else -1.
    """

    request_id: str
    start: int
    count: int
    first: int
    last: int


class _Cache(PagedAttentionCache):  # type: ignore[misc, unused-ignore]
    """A paged cache in which prompts share pages with those of the same salt only."""

    def prepare_salts(self) -> None:
        self.salts: dict[str, bytes] = {}
        self.unshared: set[str] = set()

    def search_prefix_match(self, request_id: str, prompt_ids: list[int]) -> int:
        if request_id in self.unshared:
            return 0
        found = super().search_prefix_match(request_id, self._salted(request_id, prompt_ids))
        return int(found)

    def mark_complete_blocks(self, state: RequestState, complete_blocks: dict[str, int]) -> None:
        if not self.allow_block_sharing or not complete_blocks:
            return
        tokens = self._salted(state.request_id, state.initial_tokens + state.generated_tokens)
        for name, count in complete_blocks.items():
            self.cache_allocators[name].mark_complete_blocks(state.request_id, tokens, count)

    def evict_cached_blocks(self) -> bool:
        """Let go of those pages that were left alone for longest, a half at a time, rather than of all."""
        evicted = False
        for allocator in self.cache_allocators.values():
            ledger = allocator.ledger
            oldest = list(ledger.cached_blocks)[: (len(ledger.cached_blocks) + 1) // 2]
            for block in oldest:
                del ledger.cached_blocks[block]
                ledger.hash_to_block.pop(ledger.block_to_hash.pop(block))
            if oldest:
                self.pool.free_blocks(allocator.index, oldest)
                evicted = True
        return evicted

    def _salted(self, request_id: str, tokens: list[int]) -> list[int]:
        """Return the tokens as pages are found by: with a salt, the first ones are others, and no model's."""
        salt = self.salts.get(request_id)
        if salt is None:
            return tokens
        head = [_mix(salt, place, token) for place, token in enumerate(tokens[:_SALTED])]
        return head + tokens[_SALTED:]


def _mix(salt: bytes, place: int, token: int) -> int:
    """Return a negative number of 31 bits for a token at one of the first places."""
    digest = hashlib.blake2b(b"%d:%d" % (place, token), key=salt[:64], digest_size=4).digest()
    return -1 - (int.from_bytes(digest, "little") >> 1)


class _Forward(ModelRunner):  # type: ignore[misc, unused-ignore]
    """Computes logits, and leaves the choice to others."""

    def prepare(self, vocab_size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rows: Tensor | None = None
        self.logits: Tensor | None = None
        self._static: Tensor | None = None
        if self.use_cuda_graph_varlen or self.use_cuda_graph_decode:
            # What a recorded graph writes must lie where it lay when it was recorded.
            most = self.cb_config.max_requests_per_batch
            self._static = torch.zeros((most, vocab_size), dtype=dtype, device=device)

    def _get_forward_fn(self, use_block_table: bool) -> Any:
        if self.rows is not None:
            return self._forward_process_and_sample, False
        return super()._get_forward_fn(use_block_table)

    def _forward_process_and_sample(
        self, model: Any, batch_data: Any, carry_over_ids: Tensor, prev_output_ids: Tensor, output_ids: Tensor
    ) -> None:
        rows = batch_data["logits_indices"] if self.rows is None else self.rows
        if "logits_to_keep" in batch_data:
            batch_data["logits_to_keep"] = rows
        logits = model(**batch_data).logits
        if "logits_to_keep" not in batch_data:
            logits = logits[:, rows, :]
        if self._static is None or self.rows is not None:
            self.logits = logits[0]
        else:
            self._static[: logits.shape[1]].copy_(logits[0])
            self.logits = self._static


class Paged:
    """A model with a paged cache.

    Args:
        model: of an architecture and an attention implementation that can; see `check` in `continuous.py`.

    Raises: anything, where the architecture does not allow it.
    """

    def __init__(self, model: Any, sizes: PagedSizes) -> None:
        config = model.config.get_text_config()
        if config._attn_implementation == "eager":
            model.set_attn_implementation("paged|eager")
        self._model = model
        self._config = resolve_continuous_batching_config(
            config=config,
            cb_config=_settings(sizes),
            workload_hints=None,
            has_logit_processors=True,
            device=model.device,
        )
        processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList())
        helper = DistributedHelper(device_mesh=None, cpu_group_timeout=None, tp_plan={})
        self._cache = self._make_cache(model, config, helper)
        self._scheduler = FIFOScheduler(
            cache=self._cache, safety_margin=None, max_requests_per_batch=self._config.max_requests_per_batch
        )
        self._processor = ContinuousBatchProcessor(
            cache=self._cache,
            config=config,
            generation_config=GenerationConfig(do_sample=False),
            continuous_batching_config=self._config,
            logit_processor=processors,
            input_queue=None,
            cancel_queue=None,
            output_router=OutputRouter(),
            background_thread_status=BackgroundThreadStatus(),
            model_device=model.device,
            model_dtype=model.dtype,
            scheduler=self._scheduler,
            distributed_helper=helper,
        )
        self._ios = self._processor.inputs_and_outputs
        self._forward = _Forward(
            logit_processor=processors,
            cb_config=self._config,
            cache=self._cache,
            inputs_and_outputs=self._ios,
            do_sample=False,
            return_logprobs=False,
        )
        self._forward.prepare(config.vocab_size, model.dtype, model.device)
        self._processor.model_runner = self._forward
        self._batch: Sequence[FutureRequestState] = ()

    def _make_cache(self, model: Any, config: Any, helper: DistributedHelper) -> _Cache:
        keeps = getattr(model, "_supports_logits_to_keep", None)
        cache = _Cache(
            config=config,
            continuous_batching_config=self._config,
            device=model.device,
            distributed_helper=helper,
            dtype=model.dtype,
            model_supports_logits_to_keep=callable(keeps) and keeps(),
        )
        cache.prepare_salts()
        update_cb_config_after_cache_creation(
            cb_config=self._config, num_blocks=cache.num_blocks, max_batch_tokens=cache.max_batch_tokens
        )
        if not all(one.supports_block_table for one in cache.cache_allocators.values()):
            self._config.max_blocks_per_request = 0
        return cache

    @property
    def capacity(self) -> int:
        """Return the tokens that one sequence can have at most."""
        return int(infer_max_single_request_tokens(self._cache))

    @property
    def tokens(self) -> int:
        """Return the tokens that the cache holds."""
        return int(self._cache.num_blocks) * int(self._config.page_size)

    @property
    def shares_prefixes(self) -> bool:
        """Return whether beginnings are shared: not where a layer forgets what lies behind a window."""
        return bool(self._cache.use_prefix_sharing)

    @property
    def count(self) -> int:
        """Return the number of requests that are computed at present."""
        return len(self._scheduler.active_requests)

    def has_work(self) -> bool:
        """Return whether any request is there."""
        return bool(self._scheduler.has_pending_requests())

    def warm_up(self) -> None:
        """Record what is recorded of steps."""
        self._forward.warmup(self._model)

    def add(self, request_id: str, tokens: list[int], *, salt: str | None, shares: bool) -> None:
        """Queue a request.

        Args:
            shares: what was read of prompts before may serve for this one.
        """
        if salt is not None:
            self._cache.salts[request_id] = salt.encode("utf-8", "surrogatepass") or b"\0"
        if not shares:
            self._cache.unshared.add(request_id)
        self._scheduler.add_waiting_request(RequestState(request_id, list(tokens), max_new_tokens=None))

    def remove(self, request_id: str) -> None:
        """Let a request go, wherever it is."""
        scheduler = self._scheduler
        if request_id in scheduler.active_requests:
            scheduler.finish_request(request_id)
        else:
            scheduler.set_request_cancellation(request_id)
            scheduler.clear_cancelled_requests()
        # There is room again.
        scheduler.block_new_requests = False
        self._cache.salts.pop(request_id, None)
        self._cache.unshared.discard(request_id)

    def clear(self) -> None:
        """Let all requests go, and what was kept of them: it may be broken."""
        self._scheduler.reset()
        self._ios.reset()
        self._cache.reset()
        self._cache.prepare_salts()
        self._batch = ()

    def batch(self) -> list[str]:
        """Return the requests of the last step."""
        return [one.state.request_id for one in self._batch]

    def step(self, wants_all: frozenset[str] = frozenset()) -> tuple[list[Row], Tensor] | None:
        """Compute one step.

        Args:
            wants_all: requests all of whose tokens shall have logits, not only the last.

        Returns: what was computed, and the logits (float32, a row for each that `Row` speaks of); None: there was
            nothing to do.
        """
        self._batch = ()
        if not self._processor.prepare_next_batch():
            return None
        self._batch = self._ios.requests_in_batch
        rows = list(self._rows(wants_all))
        self._forward.rows = None
        if any(row.first >= 0 for row in rows):
            self._forward.rows = torch.tensor(list(self._places(rows)), device=self._model.device)
        # Not the processor's own step, which would sample.
        inputs = self._ios.get_model_kwargs(use_padding=self._forward.pad_inputs)
        self._forward.compute_batch(self._model, inputs)
        self._ios.retrieve_device_outputs()
        logits = self._forward.logits
        assert logits is not None
        self._forward.logits = None
        for one in self._batch:
            self._cache.mark_complete_blocks(one.state, one.complete_blocks)
        return rows, logits.float()

    def _rows(self, wants_all: frozenset[str]) -> Iterator[Row]:
        place = 0
        is_full = any(one.state.request_id in wants_all for one in self._batch)
        for one in self._batch:
            state, count = one.state, one.query_length
            first = place if is_full and state.request_id in wants_all else -1
            last = -1
            if first >= 0:
                place += count
                last = place - 1 if one.has_new_token else -1
            elif one.has_new_token:
                last = place
                place += 1
            yield Row(state.request_id, state.position_offset - count, count, first, last)

    def _places(self, rows: Sequence[Row]) -> Iterator[int]:
        """Yield the places in the batch whose logits are wanted."""
        begin = 0
        for row in rows:
            end = begin + row.count
            if row.first >= 0:
                yield from range(begin, end)
            elif row.last >= 0:
                yield end - 1
            begin = end

    def advance(self, request_id: str, token: int) -> None:
        """Go on with a request of the last step by the token that was chosen."""
        state = self._scheduler.active_requests[request_id]
        if state.status != RequestStatus.DECODING:
            state.status = RequestStatus.DECODING
        state.generated_tokens.append(token)
        state.tokens_to_process = [token]

    def fork(self, request_id: str, twins: Sequence[tuple[str, int]]) -> list[str]:
        """Give other requests all that one of the last step has read.

        Args:
            request_id: one that has read its prompt, and not advanced yet.
            twins: their ids, and the tokens with which they go on.

        Returns: the ids of those for which there was room.
        """
        source = self._scheduler.active_requests[request_id]
        copies: dict[str, tuple[list[int], list[int]]] = {name: ([], []) for name in self._cache.cache_allocators}
        forked = self._cache.prepare_fork_request(source, [twin for twin, _ in twins], copies)
        with stream_context(self._ios.compute_stream):
            self._cache.perform_cache_copy(copies)
        for twin, token in twins:
            if twin not in forked:
                continue
            state = RequestState(twin, list(source.initial_tokens), max_new_tokens=None)
            state.status = RequestStatus.DECODING
            state.remaining_prefill_tokens = []
            state.position_offset = source.position_offset
            state.generated_tokens = [token]
            state.tokens_to_process = [token]
            if request_id in self._cache.salts:
                self._cache.salts[twin] = self._cache.salts[request_id]
            self._scheduler.active_requests[twin] = state
        return list(forked)


def _settings(sizes: PagedSizes) -> ContinuousBatchingConfig:
    return ContinuousBatchingConfig(
        page_size=sizes.page_size,
        num_blocks=sizes.pages,
        max_batch_tokens=sizes.max_batch_tokens,
        max_memory_percent=sizes.memory_fraction,
        max_requests_per_batch=sizes.most,
        allow_block_sharing=sizes.shares_prefixes,
        use_async_batching=False,
        use_cuda_graph=sizes.cuda_graphs,
    )
