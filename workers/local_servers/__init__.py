"""PostgreSQL and Valkey on this machine, without Docker, apt or root: `running_servers.start`."""
