"""The database role that backups are made by: it reads every row and can write nothing."""

from __future__ import annotations

from kit_engine import command
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.stack import Database

NAME, MADE = "kit_backup", "kit_backup is made"
# Without a password nobody can be this role over the network; the container's own socket asks for none.
_END = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{NAME}';\n"  # noqa: S608 - a constant
_ENSURE = f"""
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{NAME}') THEN CREATE ROLE {NAME}; END IF; END $$;
ALTER ROLE {NAME} LOGIN INHERIT BYPASSRLS NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD NULL;
ALTER ROLE {NAME} SET default_transaction_read_only = on;
GRANT pg_read_all_data TO {NAME};
-- Large objects are not among all data.
DO $$ DECLARE one oid; BEGIN
  FOR one IN SELECT oid FROM pg_largeobject_metadata
    WHERE NOT EXISTS (SELECT FROM aclexplode(lomacl) WHERE grantee = '{NAME}'::regrole) LOOP
    EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO {NAME}', one);
  END LOOP;
END $$;
{_END}"""  # noqa: S608 - as above


def becoming() -> str:
    """Give psql's input by which the database's owner makes the role, or makes it what it shall be, and becomes it.

    Sessions of it that a run which was cut off left behind are ended. :data:`MADE` is printed when it is made.
    """
    return f"\\o /dev/null\n{_ENSURE}\\o\n\\echo {MADE}\n\\connect - {NAME}\n"


def not_made(docker: Docker, wanted: Database, said: str) -> EngineError:
    """Say that the database refused it."""
    return EngineError(
        "backup",
        f"Role {NAME}, which backups are made by, cannot be made in database {wanted.name} (service "
        f"{wanted.service}):\n{command.tail(said)}\nNothing was changed.",
        docker.stack.make("logs", f"ARGS={wanted.service}"),
    )


def end_sessions(server: Container, wanted: Database) -> None:
    """End what still runs inside the server for a backup that was cancelled: killing our end of it does not."""
    command.run(["docker", "exec", "-i", server.id, *words(wanted.user, wanted.name)], stdin=_END)


def words(user: str, name: str) -> list[str]:
    """Give psql's words for statements on its standard input, over the container's own socket.

    Args:
        user: role.
        name: of the database.
    """
    return [
        *("psql", "--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"),
        *(f"--username={user}", f"--dbname={name}"),
    ]
