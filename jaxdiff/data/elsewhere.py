"""The place of data that a run was not trained on here."""

from typing import NoReturn

__all__ = ["unseen"]


def unseen(*, shape: tuple[int, ...]) -> NoReturn:
    """Stands for the data of a network whose weights came from elsewhere; holds their shape alone.

    Args:
      shape: of a sample.

    Raises:
      ValueError: always: there is nothing to read.
    """
    wanted = "--config.data=\"{'name': 'folder', 'path': ..., 'size': ...}\""
    raise ValueError("this run's weights came from elsewhere, and with them no data of shape "
                     f"{list(shape)}; to evaluate, name some: {wanted}")
