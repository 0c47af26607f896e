"""What a workdir says: tables, figures and an HTML report, from its files alone."""
