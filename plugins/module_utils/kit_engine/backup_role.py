"""The database role that backups are made by: it reads every row and can write nothing."""

from __future__ import annotations

from dataclasses import replace

from kit_engine import command
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.stack import Database, External

NAME, MADE = "kit_backup", "kit_backup is made"
# What a client of ours that comes over a network is called by the server.
APPLICATION = "kit backup"
# Without a password nobody can be this role over the network; the container's own socket asks for none.
_END = (
    f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity "  # noqa: S608 - constants
    f"WHERE usename = '{NAME}' OR application_name = '{APPLICATION}';\n"
)
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


# On a foreign server nobody logs in as it, but the user becomes it: it needs no password, and whoever else backs a
# database up there may do so at the same time. What the user may not do leaves nothing behind.
_ENSURE_EXTERNAL = f"""
BEGIN;
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{NAME}') THEN
    CREATE ROLE {NAME} NOLOGIN BYPASSRLS;
    GRANT pg_read_all_data TO {NAME};
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{NAME}'
             AND (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR NOT rolbypassrls)) THEN
    RAISE EXCEPTION 'role {NAME} is there, and is another one';
  END IF;
  IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    EXECUTE 'GRANT {NAME} TO CURRENT_USER' || CASE
      WHEN current_setting('server_version_num')::int >= 160000 THEN ' WITH INHERIT FALSE, SET TRUE' ELSE '' END;
  END IF;
END $$;
DO $$ DECLARE one oid; BEGIN
  FOR one IN SELECT oid FROM pg_largeobject_metadata
    WHERE pg_has_role(lomowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM aclexplode(lomacl) WHERE grantee = '{NAME}'::regrole) LOOP
    EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO {NAME}', one);
  END LOOP;
END $$;
SET LOCAL ROLE {NAME};
COMMIT;
"""  # noqa: S608 - as above


def reader(wanted: Database) -> str:
    """Name the role that reads."""
    return (wanted.role or wanted.user) if isinstance(wanted, External) else NAME


def becoming(wanted: Database) -> str:
    """Give psql's input by which who logged in as the database's user becomes the role that reads.

    In the stack's own database its owner makes the role first, or makes it what it shall be, and sessions of it that a
    run which was cut off left behind are ended. :data:`MADE` is printed when it is made.
    """
    if isinstance(wanted, External):
        return f"\\echo {MADE}\n" + (f"SET ROLE {wanted.role};\n" if wanted.role else "")
    return f"\\o /dev/null\n{_ENSURE}\\o\n\\echo {MADE}\n\\connect - {NAME}\n"


def not_made(docker: Docker, wanted: Database, said: str) -> EngineError:
    """Say that the database refused it."""
    return EngineError(
        "backup",
        f"Role {NAME}, which backups are made by, cannot be made in database {wanted.name} ({wanted.place}):\n"
        f"{command.tail(said)}\nNothing was changed.",
        wanted.look(docker.stack),
    )


def read_by_user(wanted: Database) -> str:
    """Say what it means that the user itself reads."""
    return (
        f"read by user {wanted.user} itself, which may not make role {NAME} on {wanted.place}; a backup fails where "
        "that user does not see every row"
    )


def options(wanted: Database) -> list[str]:
    """Give the words by which pg_dump and its fellows log in to read."""
    return options_from_elsewhere(wanted) if isinstance(wanted, External) else [f"--username={NAME}"]


def options_from_elsewhere(wanted: Database) -> list[str]:
    """Give the same where they come over a network, by which nobody can log in as :data:`NAME`: the user becomes it."""
    role = reader(wanted)
    return [f"--username={wanted.user}", *([f"--role={role}"] if role != wanted.user else [])]


def settled(docker: Docker, server: Container, wanted: Database) -> Database:
    """Settle by which role an external database is read: it is made if the user may; else the user reads itself.

    Args:
        docker: the stack's containers.
        server: of the database.
        wanted: the database; for the stack's own the session that reads makes the role (:func:`becoming`).

    Returns:
        The database with the role that reads it.
    """
    if not isinstance(wanted, External):
        return wanted
    made = docker.execute(server, words(wanted.user, wanted.name), stdin=_ENSURE_EXTERNAL, limit=command.QUICK_SECONDS)
    return replace(wanted, role="" if made.code else NAME)


def end_sessions(server: Container, wanted: Database) -> None:
    """End what still runs inside the server for a backup that was cancelled: killing our end of it does not."""
    if isinstance(wanted, External):
        # The client's container goes, and with it every connection that it had.
        return
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
