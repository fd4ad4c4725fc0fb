"""How is SparCode configured? Its model, how it is fitted, and how its tables are cut."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ByteSize, Field, model_validator

from twinspire.section import Section


class SparCodeConfig(Section):
    """SparCode, the second retriever: codes of users, scored against all items beforehand."""

    head_tokens: int = Field(1, ge=1)
    """Tokens of a user made from the user vector."""
    interest_tokens: int = Field(0, ge=0)
    """Tokens of a user made by attention over the history."""
    item_tokens: int = Field(2, ge=1)
    """Tokens of an item (K_c)."""
    parts: int = Field(2, ge=1)
    """Parts that a token is cut into (M); as many again where factors stand beside the learned vectors."""
    codes: int = Field(4096, ge=2, le=65_536)
    """Rows of each part's codebook (N)."""
    interaction: Literal["mlp", "product"] = "mlp"
    """What scores a code against an item: a net over products, or inner products alone."""
    hidden_units: int = Field(16, ge=1)
    """Width of the net's hidden layer (H)."""
    initial_bias: float = 0.5
    """First value of the learned bias, in units of the score; above 0, so that own items begin with a gradient."""
    scale: float = Field(10.0, gt=0)
    """First weight of the inner product of a token and an item's first token."""
    commitment: float = Field(0.25, ge=0)
    """Weight of the loss that holds tokens near their codes (lambda)."""
    estimator: Literal["straight_through", "stop_gradient"] = "straight_through"
    """How a gradient passes the quantizer: through it, or not at all (the commitment loss alone moves tokens then)."""
    decay: float = Field(0.99, gt=0, lt=1)
    """What stays of a codebook's averages at a step."""
    restart_below: float = Field(0.1, ge=0)
    """Codes that tokens fall into less often than this share of even use are put on tokens of the batch."""
    log_q: Literal["none", "yi2019", "khrylchenko2025"] = "yi2019"
    """Correction of the sampling bias."""
    epochs: int = Field(2, ge=0)
    """Passes over the examples, at most."""
    choose_epochs: bool = True
    """Whether the days held out for validation, if any, decide how many of the epochs are taken; none is among the
    choices: the towers with codes instead of users' vectors."""
    batch_size: int = Field(256, ge=2)
    """Examples per step."""
    num_uniform: int = Field(512, ge=0)
    """Items drawn evenly from the catalogue for each batch and shared by its rows."""
    learning_rate: float = Field(0.001, gt=0)
    """Of Adam."""
    posting_cap: int = Field(1000, ge=1)
    """Most items stored for a code."""
    controlled_bias: float | None = None
    """What is added to scores before they are cut at 0; null takes the learned bias, or what a target asks for."""
    target_size_bytes: ByteSize | None = Field(None, ge=1)
    """Take the highest bias whose posting lists are no larger; a number, or such as 50MB."""
    target_recall: float | None = Field(None, gt=0, le=1)
    """Take the lowest bias whose lists find this share of the best items by all scores of the codes."""
    curve_points: int = Field(8, ge=2)
    """Biases that are tried for the curve of size against recall."""
    num_queries: int = Field(500, ge=1)
    """Users whose lists are compared with all scores, at most."""

    def of_fit(self) -> dict[str, Any]:
        """What a fit reads, as JSON has it: all but the fields that say how tables are cut."""
        names = tuple(type(self).model_fields)
        return self.model_dump(mode="json", include=set(names[: names.index("posting_cap")]))

    @model_validator(mode="after")
    def _one_way_to_cut(self) -> SparCodeConfig:
        """Refuses two answers to one question."""
        given = [
            name
            for name in ("controlled_bias", "target_size_bytes", "target_recall")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each choose the bias of the tables; set one of them")
        if self.codes**self.parts >= 2**63:
            raise ValueError(
                f"parts is {self.parts} and codes {self.codes}: their {self.codes}^{self.parts} codes have no 63-bit "
                "number; lower one of them"
            )
        return self
