"""The database role that backups are made by: it reads every row and can write nothing."""

from __future__ import annotations

from kit_engine import command
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.stack import Database

NAME = "kit_backup"
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


def ensure(docker: Docker, server: Container, wanted: Database) -> None:
    """Make the role, or make it what it shall be; its sessions that a run which was cut off left behind are ended.

    Args:
        docker: the stack's containers.
        server: of the database.
        wanted: the database.

    Raises:
        EngineError: the database refuses.
    """
    done = docker.execute(server, words(wanted.user, wanted.name), stdin=_ENSURE, limit=command.QUICK_SECONDS)
    if done.code:
        raise EngineError(
            "backup",
            f"Role {NAME}, which backups are made by, cannot be made in database {wanted.name} (service "
            f"{wanted.service}):\n{command.tail(done.err)}\nNothing was changed.",
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
