"""What Alembic runs: the migrations, over the connection that `migrating` opened."""

from alembic import context

from api.log.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
