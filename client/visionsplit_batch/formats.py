"""The names of the formats, which a command line offers without loading the code that reads and writes them."""

INPUT_FORMATS = (
    "files", "list", "jsonl", "json", "csv", "tsv", "parquet", "webdataset", "huggingface", "llava", "openai",
)  # fmt: skip
OUTPUT_FORMATS = ("jsonl", "parquet", "webdataset", "openai")
