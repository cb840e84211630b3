"""The deployer: puts models behind endpoints and keeps them there."""
