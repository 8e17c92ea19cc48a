"""A biaffine dependency parser over any encoder, as a transformers model.

Owns the head's arithmetic. Decoding is in `ops.trees`; batches and scores are in `depparse`.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from bertft.finetuning.tasks import UNSCORED

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ARC_WIDTH, LABEL_WIDTH = 500, 100


class BiaffineParser(PreTrainedModel):
    """An encoder with the head of Dozat and Manning.

    A word is the mean of its pieces, and the root a vector of its own in their place. Arcs:
    `h_dep^T U h_head + u^T h_head`, U = 0 at the start; labels: a biaffine form with both biases.
    The encoder keeps its own configuration and weight names, so whatever reads the encoder's
    architecture reads this model's folder too.

    Args:
        config: the encoder's, with `id2label`, the dependency labels.

    Reference: Dozat & Manning 2017, 10.48550/arXiv.1611.01734.
    """

    # The loss is a mean, so the Trainer must not hand over a number to divide it by.
    accepts_loss_kwargs = False
    # Attention is the encoder's affair.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: "PretrainedConfig") -> None:
        super().__init__(config)
        encoder = AutoModel.from_config(config)
        # transformers finds the encoder by this name, and names its weights in files by it.
        self.base_model_prefix = encoder.base_model_prefix
        setattr(self, self.base_model_prefix, encoder)
        d = config.hidden_size
        self.root = nn.Parameter(0.02 * torch.randn(d))
        self.arc_dependent, self.arc_head = _projection(d, ARC_WIDTH), _projection(d, ARC_WIDTH)
        self.arc_bilinear = nn.Parameter(torch.zeros(ARC_WIDTH, ARC_WIDTH))
        self.arc_bias = nn.Parameter(torch.zeros(ARC_WIDTH))
        self.label_dependent = _projection(d, LABEL_WIDTH)
        self.label_head = _projection(d, LABEL_WIDTH)
        self.label_bilinear = nn.Parameter(
            torch.zeros(LABEL_WIDTH + 1, len(config.id2label or ()), LABEL_WIDTH + 1)
        )
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, folder: Any, *args: Any, **options: Any
    ) -> Any:
        """Load what `save_pretrained` wrote, like any other model.

        Raises:
            ValueError: the folder lacks weights of the head.
        """
        where = {key: options[key] for key in ("revision", "cache_dir", "token") if key in options}
        config = options.pop("config", None) or AutoConfig.from_pretrained(folder, **where)
        told = options.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(
            folder, *args, config=config, output_loading_info=True, **options
        )
        parser, loading = loaded
        if missing := sorted(loading["missing_keys"]):
            raise ValueError(
                f"[BiaffineParser] checkpoint must hold every weight of a parser, got "
                f"{str(folder)!r} without {missing[0]!r}; pass a folder that finetune wrote."
            )
        return (parser, loading) if told else parser

    def _init_weights(self, module: nn.Module) -> None:
        """Leave every weight as its own constructor drew it."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        word_of_piece: Tensor,
        lengths: Tensor,
        heads: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> ModelOutput:
        """Score the arcs of a batch, and its loss where the truth is given.

        Args:
            input_ids: `(batch, pieces)`.
            attention_mask: `(batch, pieces)`.
            word_of_piece: `(batch, pieces)`, the word that a piece belongs to, or -1.
            lengths: `(batch,)`, number of words.
            heads: `(batch, words)`, 0 the root and j word j; -100 beyond a sentence.
            labels: `(batch, words)`, numbers of labels; -100 for none.

        Returns:
            `loss` (nats: mean over words of heads' and labels' cross-entropies), `arcs`
            `(batch, words, words + 1)`, and the `nodes` that `label_scores` takes.
        """
        encoder = getattr(self, self.base_model_prefix)
        hidden = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        words = _mean_of_pieces(hidden, word_of_piece, int(lengths.max()))
        nodes = torch.cat([self.root.to(words.dtype).expand(len(words), 1, -1), words], dim=1)
        arcs = self._arc_scores(words, nodes, lengths)
        loss = None
        if heads is not None and labels is not None:
            scores = self.label_scores(nodes, heads.clamp(min=0))
            loss = _cross_entropy(arcs, heads) + _cross_entropy(scores, labels)
        return ModelOutput(loss=loss, arcs=arcs, nodes=nodes)

    def label_scores(self, nodes: Tensor, heads: Tensor) -> Tensor:
        """Return scores `(batch, words, labels)` of each word's arc from the given head.

        Args:
            nodes: `(batch, words + 1, d)`, the root first.
            heads: `(batch, words)` in 0..words.
        """
        dependents = _with_one(self.label_dependent(nodes[:, 1:]))
        above = _with_one(self.label_head(nodes))
        above = above.gather(1, heads[..., None].expand(-1, -1, above.shape[-1]))
        # (words, i) x (i, labels * j), then the sum over j: no tensor of words x i x j.
        left = dependents @ self.label_bilinear.flatten(1)
        left = left.reshape(*left.shape[:-1], *self.label_bilinear.shape[1:])
        scores: Tensor = (left * above[:, :, None, :]).sum(dim=-1)
        return scores

    def _arc_scores(self, words: Tensor, nodes: Tensor, lengths: Tensor) -> Tensor:
        left = self.arc_dependent(words) @ self.arc_bilinear + self.arc_bias
        scores: Tensor = (left @ self.arc_head(nodes).transpose(1, 2)).float()
        beyond = torch.arange(nodes.shape[1], device=lengths.device) > lengths[:, None]
        return scores.masked_fill(beyond[:, None, :], -torch.inf)


def _projection(d: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d, width), nn.LeakyReLU(0.1), nn.Dropout(0.33))


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1)


def _mean_of_pieces(hidden: Tensor, word_of_piece: Tensor, words: int) -> Tensor:
    """Means `(batch, words, d)`; zero for a word without a piece."""
    member = word_of_piece[:, None, :] == torch.arange(words, device=hidden.device)[:, None]
    member = member.to(hidden.dtype)
    return (member / member.sum(dim=-1, keepdim=True).clamp(min=1)) @ hidden


def _cross_entropy(scores: Tensor, truth: Tensor) -> Tensor:
    return functional.cross_entropy(
        scores.float().flatten(0, 1), truth.flatten(), ignore_index=UNSCORED
    )
