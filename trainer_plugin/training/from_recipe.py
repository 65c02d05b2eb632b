"""Opens what a recipe describes: its dataset and its model."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer_plugin.data.features import FeatureFolder
from trainer_plugin.data.samples import ReleaseDataset
from trainer_plugin.distributed.mesh import RankContext
from trainer_plugin.families.base import Family
from trainer_plugin.model import LongVideoModel, RunOptions
from trainer_plugin.recipe import RunSettings, VideoData
from trainer_plugin.training.weights import build_model


def open_samples(
    videos: VideoData, family: Family, tokenizer: PreTrainedTokenizerBase, *, with_features: bool = True
) -> ReleaseDataset:
    """Open the recipe's dataset of questions about videos.

    Args:
        videos: the recipe's section on videos.
        family: the model's family.
        tokenizer: the model's tokenizer.
        with_features: read the features of `videos.features`, if it is set; False: decode and encode all frames.

    Raises:
        BadInput, SchemaError: as `ReleaseDataset`.
    """
    stored = videos.features if with_features else None
    return ReleaseDataset(
        videos.release,
        videos.split,
        family,
        tokenizer,
        policy=videos.frames,
        target=videos.target,
        media=videos.media,
        features=FeatureFolder(stored.url, stored.tower) if stored else None,
        skip_hinted=videos.skip_hinted,
    )


def open_model(
    recipe: RunSettings, config: PretrainedConfig, parallel: RankContext, *, frozen: bool = False
) -> LongVideoModel:
    """Build the recipe's model, sharded and ready to train. Every rank must call it.

    Args:
        recipe: the recipe.
        config: result of `read_config(recipe.model)`.
        parallel: this process's rank and groups.
        frozen: whether no weight is trainable: the model as it is before the training.

    Raises:
        BadInput: on every rank, if the folder's weights do not fit the model's configuration.
    """
    memory = recipe.memory
    return build_model(
        recipe.model,
        None if frozen else recipe.trained,
        config,
        parallel,
        compute=getattr(torch, recipe.precision),
        options=RunOptions(
            kernel=recipe.kernel,
            head=recipe.head,
            checkpointed_layers=memory.checkpointed_layers,
            save_attention_output=memory.save_attention_output,
            mlp_tile_tokens=memory.mlp_tile_tokens,
            vision_patches=memory.vision_patches,
            offload=memory.offload_activations,
            compile=recipe.compile,
        ),
        offload=memory.offload_parameters,
        seed=recipe.seed,
    )
