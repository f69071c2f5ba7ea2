import pytest
from transformers import LlavaNextProcessor, PreTrainedTokenizerFast

from training.model.checkpoint import Architecture, image_processor
from training.model.tokenizer import CHAT_TEMPLATE, build_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def architecture() -> Architecture:
    """Small enough for a test: 4 x 4 patches to a tile."""
    return Architecture(
        tile=56, vision_width=32, vision_layers=3, text_width=32, text_layers=2, text_hidden=64, heads=4
    )


@pytest.fixture(scope="session")
def processor(tokenizer: PreTrainedTokenizerFast, architecture: Architecture) -> LlavaNextProcessor:
    """Hugging Face's own, as the checkpoint gets it."""
    return LlavaNextProcessor(
        image_processor=image_processor(architecture),
        tokenizer=tokenizer,
        patch_size=architecture.patch,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )
