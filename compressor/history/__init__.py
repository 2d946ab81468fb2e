"""Every run in one local SQLite file: lists, the Pareto front per task, export and import."""
