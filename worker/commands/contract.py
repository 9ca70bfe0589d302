"""`rollcall schema`: the contract with subscribers, as documents for tools. Needs neither Kafka nor configuration."""

from pathlib import Path

import click

from worker import contract
from worker.errors import UsageError
from worker.topics import Topics, prefix_problem


@click.command()
@click.argument("name", required=False)
@click.option("--prefix", default="customers", show_default=True, help="Of the public topics.")
@click.option("--list", "as_list", is_flag=True, help="Name what there is.")
@click.option("--write", "folder", type=click.Path(path_type=Path, file_okay=False), help="All of it, into a folder.")
def schema(name: str | None, prefix: str, folder: Path | None, *, as_list: bool) -> None:
    """Print the AsyncAPI document, or the JSON Schema called NAME.

    `--write` exits 1, and writes nothing, where a schema in the folder would be changed so that its readers break.
    """
    if (problem := prefix_problem(prefix)) is not None:
        raise UsageError(problem)
    topics = Topics(prefix)
    documents = contract.documents(topics)
    if folder is not None:
        for path in contract.write(folder, topics):
            click.echo(path)
    elif as_list:
        for known in documents:
            click.echo(known)
    elif name is not None and name not in documents:
        raise UsageError(f"there is no schema {name!r}; there are {', '.join(documents)}")
    else:
        click.echo(contract.encode(documents[name or contract.ASYNCAPI]), nl=False)


COMMANDS = (schema,)
