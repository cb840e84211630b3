"""What every HTTP route shares: who asks, error shapes, pages, forwarding."""
