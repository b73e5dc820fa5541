from dataclasses import replace

from modelrack.catalog.merge import Merged, merge_families, merge_variants
from modelrack.hooks import Family, Source, Variant

HF = Source(hub="huggingface", repo="a/b")
MS = Source(hub="modelscope", repo="a/b")


def family(**members: object) -> Family:
    return replace(Family(name="m", model_type="LLM"), **members)  # type: ignore[arg-type]


def merge(*families: tuple[str, Family]) -> tuple[dict[tuple[str, str], Merged], list[tuple[str, str]]]:
    refused: list[tuple[str, str]] = []
    return merge_families(families, lambda owner, reason: refused.append((owner, reason))), refused


def test_variants_of_several_plugins_add_up() -> None:
    gguf = Variant(format="gguf", size_b=1, sources=(replace(HF, quantizations=("Q4_K_M",)),))
    merged, refused = merge(
        (
            "one",
            family(
                abilities=("chat",), context_length=100, variants=(Variant(format="pytorch", size_b=1, sources=(HF,)),)
            ),
        ),
        ("two", family(context_length=100, tool_format="qwen", facts={"x": 1}, variants=(gguf,))),
    )
    assert refused == []
    found = merged["LLM", "m"]
    assert found.owners == ("one", "two")
    assert found.family.abilities == ("chat",) and found.family.tool_format == "qwen" and found.family.facts == {"x": 1}
    assert [variant.format for variant in found.family.variants] == ["pytorch", "gguf"]


def test_sources_of_the_same_variant_add_up_without_repetition() -> None:
    one = Variant(format="pytorch", size_b=7, sources=(HF, MS))
    assert merge_variants((one, replace(one, sources=(MS, HF)))) == (one,)
    fp8 = Variant(format="pytorch", size_b=7, sources=(replace(HF, repo="a/b-fp8", quantizations=("fp8",)),))
    (both,) = merge_variants((one, fp8))
    assert both.quantizations == ("none", "fp8")
    assert [source.quantizations for source in both.sources] == [("none",), ("none",), ("fp8",)]
    explicit = Variant(format="pytorch", size_b=7, sources=(replace(HF, quantizations=("none",)),))
    assert merge_variants((explicit,))[0].sources == (HF,)


def test_what_is_in_parts_counts_as_held() -> None:
    source = replace(HF, quantizations=("Q4_K_M",), split_file="{quantization}-{part}.gguf", parts={"Q8_0": 2})
    (variant,) = merge_variants((Variant(format="gguf", size_b=7, sources=(source,)),))
    assert variant.quantizations == ("Q4_K_M", "Q8_0")


def test_contradictions_are_refused_with_both_owners() -> None:
    for first, second, fact in (
        (family(context_length=100), family(context_length=200), "context_length is 100 and 200"),
        (family(abilities=("chat",)), family(abilities=("generate",)), "abilities are"),
        (family(facts={"dimensions": 3}), family(facts={"dimensions": 4}), "dimensions is 3 and 4"),
        (
            family(variants=(Variant(format="gguf", size_b=30, active_b=3),)),
            family(variants=(Variant(format="gguf", size_b=30, active_b=4),)),
            "active parameters of gguf 30B",
        ),
    ):
        merged, refused = merge(("one", first), ("two", second))
        assert merged["LLM", "m"].family == first and merged["LLM", "m"].owners == ("one",)
        ((owner, reason),) = refused
        assert owner == "two" and "'one'" in reason and fact in reason and "'m'" in reason


def test_the_order_of_abilities_is_no_contradiction() -> None:
    merged, refused = merge(("one", family(abilities=("chat", "tools"))), ("two", family(abilities=("tools", "chat"))))
    assert refused == [] and merged["LLM", "m"].family.abilities == ("chat", "tools")


def test_types_are_apart() -> None:
    merged, _ = merge(("one", family(context_length=1)), ("two", family(context_length=2, model_type="embedding")))
    assert set(merged) == {("LLM", "m"), ("embedding", "m")}
