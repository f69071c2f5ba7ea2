"""`Caption`, `Encode` and `Ask`: callable classes for Ray Data's `map_batches`, which call services that run.

Each takes a batch as an Arrow table (`batch_format="pyarrow"`) or as a dictionary of columns, and returns it with more
columns. A row that fails gets its reason in the column `error`, which is null in the others; its other new columns are
null. In tables the new columns have their types even where all values are null, and the others stay as they are; from a
dictionary, Ray Data guesses the types of each block by its values.
"""

from visionsplit_batch.steps.ask import Ask
from visionsplit_batch.steps.caption import Caption
from visionsplit_batch.steps.encode import Encode

__all__ = ["Ask", "Caption", "Encode"]
