"""`python -m billet.fake`."""

from billet.fake.command import fake_flintlockd

if __name__ == "__main__":
    fake_flintlockd()
