"""What more than one graftkit method needs: validation, randomness, progress, extras."""
