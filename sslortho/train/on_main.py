"""Work of the main process alone, for whose outcome the other ranks wait."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

Result = TypeVar("Result")


def on_main(accelerator: Accelerator, act: Callable[[], Result]) -> Result:
    """Result of a function that the main process calls, on every rank. Every rank must call.

    Raises what the function raises. On the other ranks that is ValueError for a ValueError or OSError, which
    are the user's, and RuntimeError for any other error; so none of them waits for one that has failed.
    """
    answer: list[Any] = [None, None, False]
    try:
        if accelerator.is_main_process:
            answer = [act(), None, False]
    except BaseException as error:
        answer = [None, f"{type(error).__name__}: {error}", isinstance(error, ValueError | OSError)]
        raise
    finally:
        broadcast_object_list(answer)
    result, failure, is_users = answer
    if failure is not None:
        raise (ValueError if is_users else RuntimeError)(f"rank 0 failed ({failure})")
    return result
