package main

import (
	"context"
	"errors"
	"fmt"

	"darklaunch/appserver"
	"darklaunch/appserver/cell"
	"darklaunch/appserver/client"
	"darklaunch/appserver/directory"
	"darklaunch/internal/ops"
)

// routing is how a server reaches the servers of other users.
type routing struct {
	router    *client.Router
	directory *directory.Directory // nil: there is one cell
	keeper    directory.Keeper
}

// route connects a server to its cell's others, and by --directory to other cells.
func (c *serveCommand) route(ctx context.Context, s *service, members *cell.Cell) (r routing, err error) {
	if c.directory != (directoryPlace{}) {
		if r.keeper, err = c.directory.open(ctx, s.log); err != nil {
			return r, fmt.Errorf("%w (--directory)", err)
		}
		r.directory = directory.New(r.keeper, directory.Config{Registerer: s.registry, Log: s.log})
		if _, err := r.directory.Refresh(ctx); err != nil {
			s.log.Warn("the directory of cells cannot be read yet", "err", err)
		}
	}
	cfg := client.RouterConfig{Directory: r.directory, Cell: c.cell, Self: c.advertise, Registerer: s.registry}
	if c.coordinator.kind != "local" {
		cfg.View = members.View
	}
	r.router = client.NewRouter(cfg)
	return r, nil
}

// configure gives it to a server.
func (r routing) configure(cfg *appserver.Config, members *cell.Cell) {
	cfg.Router, cfg.Directory, cfg.Changed = r.router, r.directory, members.Changed
}

// parts are what runs beside the server.
func (r routing) parts() []ops.Part {
	if r.directory == nil {
		return nil
	}
	return []ops.Part{{Name: "directory", Run: r.directory.Run}}
}

func (r routing) close() error {
	err := r.router.Close()
	if r.keeper != nil {
		err = errors.Join(err, r.keeper.Close())
	}
	return err
}
